"""S7: nothing is contacted unless a URL or a name of the hub is given, and nothing of ours listens."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "autodidact"
FILES = sorted(PACKAGE.rglob("*.py"))
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
GUARD = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind"):
        if event in ("socket.connect", "socket.bind") and arguments[0].family.name == "AF_UNIX":
            return
        with open(os.environ["NETWORK_LOG"], "a") as file:
            file.write(f"{event} {arguments[1:] or arguments}\\n")
        raise OSError("the network is off")
sys.addaudithook(watch)
"""
SERVERS = {"socketserver", "http.server", "wsgiref", "xmlrpc", "uvicorn", "fastapi", "flask"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_what_listens_does_so_on_loopback(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=found):
                assert not SERVERS & {each.name for each in found}
            case ast.ImportFrom(module=str(module)):
                assert module not in SERVERS
            case ast.Constant(value=str(text)):
                assert text not in ("0.0.0.0", "::"), "every interface of the machine"
            case ast.Call(func=ast.Attribute(attr="bind" | "create_server"), args=[first, *_]):
                if isinstance(first, ast.Tuple):
                    assert isinstance(first.elts[0], ast.Constant), "a host that is not stated"
                    assert first.elts[0].value in LOOPBACK


def test_libraries_below_are_told_not_to_report(monkeypatch):
    """In a fresh process: huggingface_hub reads these variables when it is imported."""
    code = (
        "import autodidact, os; from huggingface_hub import constants as c; "
        "assert c.HF_HUB_DISABLE_TELEMETRY; assert os.environ['DO_NOT_TRACK'] == '1'; "
        "assert os.environ['DISABLE_SAFETENSORS_CONVERSION'] == '1'"
    )
    kept = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONPATH")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    env["DO_NOT_TRACK"] = "0"
    code = "import autodidact, os; assert os.environ['DO_NOT_TRACK'] == '0'"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    assert done.returncode == 0, "what the user says counts"


@pytest.fixture
def guarded(tmp_path) -> dict[str, str]:
    """An environment in which every use of the network, of child processes too, fails and is
    written down. The hub's own switch is not set: nothing may lean on it."""
    place = tmp_path / "guard"
    place.mkdir()
    (place / "sitecustomize.py").write_text(GUARD)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    paths = os.pathsep.join(filter(None, (str(place), kept.get("PYTHONPATH", ""))))
    return kept | {"PYTHONPATH": paths, "NETWORK_LOG": str(tmp_path / "network.log")}


def ran(code: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def test_the_guard_sees_the_network(guarded):
    code = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    assert "the network is off" in ran(code, guarded).stderr
    assert "socket.getaddrinfo" in Path(guarded["NETWORK_LOG"]).read_text()


@pytest.mark.slow
@pytest.mark.long
def test_train_compare_and_report_contact_nothing(guarded, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [
        {"question": f"{n}+1=?", "answer": str(n + 1), "solution": str(n + 1)} for n in range(8)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = f"""
if __name__ == "__main__":
    from pathlib import Path
    from autodidact import compare, train
    from autodidact.cli import main
    out = Path({str(tmp_path)!r})
    quick = dict(rows=2, eval_points=0, eval_problems=2, eval_samples=1, eval_length=4)
    train("opsd(length=4)", data={str(data)!r}, steps=1, out=out / "train", **quick)
    compare(["sft"], seeds=(0,), budget=2, column="optimizer_steps", out=out / "compare", **quick)
    main(["report", str(out / "train")])
    print("all done")
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)], env=guarded, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert "all done" in done.stdout, done.stderr
    assert not Path(guarded["NETWORK_LOG"]).exists(), Path(guarded["NETWORK_LOG"]).read_text()
