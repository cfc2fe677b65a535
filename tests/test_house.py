"""The rules of the house, read off the source: who imports whom, how long, how documented, how safe."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autodidact import calls

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "autodidact"
CORE = (
    "adapter", "ahead", "attention", "auxiliary", "batch", "calls", "chat", "checkpoint", "contexts", "diagnose", "divergence", "engine", "faults", "files", "grade", "groupwise", "guards",
    "head", "kinds", "lasting", "law", "learn", "ledger", "lock", "lockstep", "manifest", "masked", "measure", "memory", "method", "model", "models", "names", "noise", "notes", "pack", "parallel", "places", "privilege", "problem", "remembered",
    "questions", "redact", "rules", "run", "scores", "serial", "sharding", "skeleton", "spec", "state", "statistics", "store", "strict", "sweep", "teachers", "threads", "train", "trial", "trunk", "trust", "view",
)  # fmt: skip
PARTS = ("credits", "engines", "losses", "rollouts")
LINES = 280
FILES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(name: str) -> set[str]:
    """The modules of the package that a file imports anywhere, those for type checkers aside."""
    tree, found = TREES[name], set()
    aside = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in aside:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autodidact"):
            places = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            places = [alias.name for alias in node.names]
        else:
            continue
        for place in places:
            inside = place.removeprefix("autodidact.").replace(".", "/")
            found |= {inside} if inside in FILES else set()
    return found


def layer(name: str) -> int:
    """0 core, 1 parts, 2 methods, 3 whatever makes runs, looks at them and talks about them."""
    top = name.split("/")[0]
    return 0 if name in CORE else 1 if top in PARTS else 2 if top == "methods" else 3


def test_the_core_is_where_it_is_said_to_be():
    assert set(CORE) <= set(FILES)


@pytest.mark.parametrize("name", sorted(n for n in FILES if layer(n) < 3))
def test_imports_run_one_way(name):
    """methods -> parts -> core. A spec and the calls may name tasks; nothing else looks up."""
    above = {other for other in imports(name) if layer(other) > layer(name)}
    allowed = {"tasks/rewards"} if name == "spec" else set()
    assert not above - allowed, f"{name} imports {sorted(above)}"


def test_tasks_and_reports_know_nothing_of_training():
    for name in FILES:
        if name.startswith("tasks/"):
            assert {n.split("/")[0] for n in imports(name)} <= {
                "names",
                "notes",
                "problem",
                "tasks",
            }, name
        if name.startswith("report/"):
            assert {n.split("/")[0] for n in imports(name)} <= {
                "names",
                "redact",
                "report",
                "statistics",
            }, name


@pytest.mark.parametrize(
    "name",
    [
        *CORE,
        "session",
        "record",
        "best",
        "journal",
        "described",
        "compare",
        "evaluate",
        "microscope",
        "preflight",
    ],
)
def test_core_files_stay_short(name):
    count = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert count <= LINES, f"{name}.py has {count} lines"


@pytest.mark.parametrize("name", calls.names("methods"))
def test_a_method_is_one_short_file_with_one_documented_function(name):
    tree = TREES[f"methods/{name}"]
    public = [
        n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")
    ]
    assert public == [name]
    assert len(FILES[f"methods/{name}"].read_text().splitlines()) <= 100
    text = inspect.getdoc(calls.method(name))
    assert re.search(r"\b(L|A\w*) = ", text), "a formula"
    source = re.search(r"^Source: (.*?)^\w+: ", text, re.M | re.S)
    assert source, "a source"
    assert re.search(r"arXiv \d{4}\.\d{5}|textbook", source[1]), "with its arXiv number"
    for word in ("Needs:", "detached", "Shapes", "Raises:", "Degenerates to:"):
        assert word.lower() in text.lower(), f"{word} is missing"
    for option in inspect.signature(calls.method(name)).parameters.values():
        assert option.default is not option.empty, f"{option.name} needs a default"
        assert option.annotation is not option.empty


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_code_is_run_from_data_and_nothing_is_pickled(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            assert call not in ("eval", "exec", "compile", "__import__"), call
            assert call not in ("os.system", "os.popen", "torch.load", "torch.save"), call
            for word in node.keywords:
                assert word.arg != "shell", "a shell"
        if isinstance(node, ast.Import):
            assert not {a.name for a in node.names} & {"pickle", "dill", "shelve", "marshal"}
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ("pickle", "dill", "shelve", "marshal")


@pytest.mark.parametrize("name", sorted(FILES))
def test_errors_are_caught_by_name(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, "a bare except"
            caught = ast.unparse(node.type)
            again = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            assert again or caught not in ("Exception", "BaseException"), f"line {node.lineno}"


def test_only_scores_and_the_sampler_touch_the_vocabulary_axis():
    axis = {"log_softmax", "softmax", "logsumexp", "cross_entropy"}
    touching = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in axis
    }
    assert touching == {"scores", "sweep", "questions", "law", "groupwise"}


def test_no_randomness_but_what_is_asked_for():
    """The global generator is seeded where layers are made, which draw from it, and put back."""
    seeding = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("manual_seed", "seed_all")
    }
    assert seeding == {"adapter", "auxiliary"}
    assert all("fork_rng" in FILES[name].read_text() for name in seeding)


def test_importing_the_package_is_light():
    code = (
        "import sys, autodidact, autodidact.calls, autodidact.run, autodidact.spec, autodidact.diagnose\n"
        "heavy = {'torch', 'transformers', 'datasets', 'scipy', 'numpy', 'matplotlib', 'peft'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr


def tracked() -> list[Path]:
    """Every text file that belongs to the repository."""
    found = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in found.stdout.split("\0") if name]
    return [p for p in paths if p.is_file() and p.suffix not in (".safetensors", ".png")]


def test_no_file_knows_the_machine_it_was_written_on():
    places = re.compile("/(" + "|".join(("work", "root", "home", "Users")) + r")/\w")
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not places.search(line), (
                f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
            )
