"""F15: clocks that jump, no terminal, no home, another encoding, odd paths, a package that cannot
be written to, no network: training, showing and reporting work all the same."""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import autodidact
from autodidact import cli
from autodidact.files import digest

PACKAGE = Path(autodidact.__file__).parent

SURROUNDED = """
import datetime, itertools, socket, sys, time

back = itertools.count()
begun = time.time()
time.time = lambda: begun - 3600 * next(back)
time.time_ns = lambda: int(time.time() * 1e9)

class Backwards(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().fromtimestamp(time.time(), tz)

datetime.datetime = Backwards
asked = []

def offline(*address):
    asked.append(address[1:])
    raise OSError(101, "Network is unreachable")

socket.socket.connect = socket.socket.connect_ex = offline
socket.getaddrinfo = socket.create_connection = offline

import autodidact
from autodidact.cli import main

print(sys.flags.utf8_mode, autodidact.__file__)
for line in eval(sys.argv[1]):
    main(line)
assert not asked, asked
"""
TRAIN = (
    "--n", "2", "--length", "8", "--steps", "2", "--rows", "4", "--save-every", "1",
    "--eval-points", "1", "--eval-problems", "2", "--eval-samples", "1", "--eval-length", "4",
)  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): digest(p) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_a_run_in_odd_surroundings(tmp_path):
    """All of it at once; what one of them breaks, it breaks here."""
    package = tmp_path / "site-packages" / "autodidact"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*package.rglob("*"), package, package.parent]:
        path.chmod(path.stat().st_mode & ~0o222)
    before = contents(package.parent)
    place = tmp_path / "ein Lauf, größer 中 'und' \"so\" $HOME & more"
    place.mkdir()
    rows = [
        {"question": f"{a}+{a}", "solution": f"{a}+{a}={2 * a}", "answer": str(2 * a)}
        for a in range(2, 20)
    ]
    (place / "Dätä 1.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = f"../{place.name}/./Läufe/../Läufe/der  erste"
    lines = (
        ("train", "grpo", *TRAIN, "--data", "Dätä 1.jsonl", "--out", out),
        ("show", out), ("report", out), ("doctor", out),
    )  # fmt: skip
    own = {
        "PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SURROUNDED, repr(lines)],
        cwd=place, env=own, stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
    )  # fmt: skip
    said = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, said
    assert said[0].splitlines()[0].endswith(str(package / "__init__.py")), said
    assert "evaluated after 2 steps" in said[0]
    assert "\x1b" not in said[0]
    folder = place / "Läufe" / "der  erste"
    call = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert call["finished"] < call["started"], "the clock went backwards"
    assert call["spec"]["task"]["arguments"]["path"] == "Dätä 1.jsonl"
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        assert 0 <= json.loads(line)["ledger"]["seconds"] < 300
    assert "</html>" in (folder / "report.html").read_text(encoding="utf-8")
    assert contents(package.parent) == before, "nothing is written inside of the package"
    assert sorted(path.name for path in place.iterdir()) == ["Dätä 1.jsonl", "Läufe"]


def test_a_terminal_of_another_encoding(tmp_path, monkeypatch):
    """The example has brackets and lines that it lacks."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    out = str(tmp_path / "run")
    cli.main(("train", "sft", *TRAIN[4:], "--out", out))
    cli.main(("show", out))
    sys.stdout.flush()
    said = written.getvalue().decode("ascii")
    assert "trained tokens in ?brackets?" in said
    assert "run directory: " in said


@pytest.mark.parametrize(("line", "code"), [(("methods", "opsd"), 0), (("show", "größe"), 2)])
def test_a_shell_of_another_encoding(tmp_path, line, code):
    """Python itself told to take it seriously, which it does not do by default."""
    own = {
        "PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "autodidact", *line], env=own, cwd=tmp_path,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr, done.stderr
    assert done.returncode == code


def called(node: ast.Call) -> str:
    """The last part of the name of what is called."""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def is_text_file(node: ast.AST) -> bool:
    """Whether a node of a program opens a file as text."""
    if not isinstance(node, ast.Call) or called(node) not in ("open", "read_text", "write_text"):
        return False
    modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
    binary = any(isinstance(mode, str) and "b" in mode for mode in modes)
    return not binary and not ast.unparse(node.func).startswith(("os.", "self."))


def test_text_files_do_not_depend_on_the_locale_nor_durations_on_the_time_of_day():
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if is_text_file(node) and "encoding" not in {word.arg for word in node.keywords}:
                found.append(f"{path}:{node.lineno}: no encoding is stated")
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.time":
                found.append(f"{path}:{node.lineno}: time.time may jump; time.monotonic")
    assert not found
