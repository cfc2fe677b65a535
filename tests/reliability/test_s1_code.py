"""S1: no text is ever run as code, nothing is unpickled, no shell is started."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from autodidact import calls

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "autodidact"
FILES = sorted(PACKAGE.rglob("*.py"))

NAMES = {"eval", "exec", "compile", "__import__", "execfile"}
MODULES = {
    "pickle", "_pickle", "dill", "cloudpickle", "jsonpickle", "joblib", "marshal", "shelve",
    "yaml", "tarfile", "zipfile", "runpy", "pty", "commands",
}  # fmt: skip
DOTTED = {
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "numpy.load", "np.load",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "shutil.unpack_archive", "builtins.eval", "builtins.exec", "builtins.compile",
}  # fmt: skip
ENDS = {"sympify", "parse_expr", "lambdify", "unsafe_load_all", "object_hook", "extractall"}
OPTIONS = {"shell", "allow_pickle", "weights_only"}
FORBIDDEN = {"trust_remote_code": True, "use_safetensors": False}
USER_CODE = {"tasks/importing.py": {"exec_module"}}
"""The one place that runs a file: a reward of the user's own, by its name on the command line."""


def dangers(tree: ast.AST) -> Iterator[str]:
    """What in a file could run text as code, read a pickle or start a shell."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in NAMES:
                yield name
            case ast.Attribute(attr=name) if (dotted := ast.unparse(node)) in DOTTED | {
                f"os.{how}" for how in ("execv", "execve", "execvp", "spawnv", "spawnlp")
            }:
                yield dotted
            case ast.Attribute(attr=name) if name in ENDS | {"exec_module"}:
                yield name
            case ast.Import(names=found):
                yield from (a.name for a in found if a.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module), names=found):
                if module.partition(".")[0] in MODULES:
                    yield module
                said = {f"{module}.{a.name}" for a in found} & DOTTED
                yield from said | ({a.name for a in found} & ENDS)
            case ast.keyword(arg=str(name)) if name in OPTIONS:
                yield name
            case ast.keyword(arg=str(name), value=ast.Constant(value=value)):
                if name in FORBIDDEN and FORBIDDEN[name] is value:
                    yield f"{name}={value}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_of_the_package_runs_text_or_reads_pickles(path):
    allowed = USER_CODE.get(path.relative_to(PACKAGE).as_posix(), set())
    assert set(dangers(ast.parse(path.read_text(encoding="utf-8")))) <= allowed


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')", "run = exec", "compile(text, '', 'exec')", "import pickle",
        "from pickle import loads", "import marshal as m", "import shelve", "import yaml",
        "torch.load(path)", "torch.load(path, weights_only=False)", "from torch import load",
        "np.load(path, allow_pickle=True)", "subprocess.run(text, shell=True)", "os.system(text)",
        "archive.extractall()", "sympy.sympify(text)", "from sympy import parse_expr",
        "AutoModel.from_pretrained(x, trust_remote_code=True)", "f(use_safetensors=False)",
    ],
)  # fmt: skip
def test_the_search_finds_each_of_them(code):
    assert list(dangers(ast.parse(code)))


@pytest.mark.parametrize(
    "code", ["model.eval()", "re.compile('x')", "json.load(file)", "f(trust_remote_code=said)"]
)
def test_the_search_finds_nothing_in_plain_code(code):
    assert not list(dangers(ast.parse(code)))


@pytest.mark.parametrize(
    "text",
    [
        "opsd(n=__import__('os').system('touch canary'))",
        "opsd(n=open('canary', 'w'))",
        "opsd(n=[x for x in (1,)])",
        "__import__('os')",
        "(lambda: open('canary', 'w'))()",
        "opsd(n=f'{open(chr(99), chr(119))}')",
        "opsd(" + "(" * 5000 + ")" * 5000 + ")",
        "opsd(n=" + "-" * 100_000 + "1)",
    ],
)
def test_a_call_in_a_run_file_is_read_and_never_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no call such as|neither a literal nor a bare word"):
        calls.make(calls.method, calls.parse(text))
    assert not list(tmp_path.iterdir())
