"""S6: no secret of the environment, of options or of URLs is written, shown or sent to a tracker."""

from __future__ import annotations

import importlib.machinery
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from autodidact import calls, settings
from autodidact.cli import main
from autodidact.engines.http import place
from autodidact.redact import HIDDEN, names_secret, redacted, redacted_text
from autodidact.run import Directory, Run
from autodidact.track import trackers

CANARY = "canary-7f3a9c"
VARIABLES = (
    "HF_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN",
    "DB_PASSWORD", "MY_OWN_SECRET",
)  # fmt: skip
QUICK = (
    "--steps", "1", "--rows", "2", "--eval-points", "0", "--eval-problems", "2", "--eval-samples",
    "1", "--eval-length", "4",
)  # fmt: skip


@pytest.fixture
def planted(monkeypatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, f"{CANARY}-{name}")


def holding(folder: Path) -> list[Path]:
    """Files in which a canary stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path for path in files if CANARY.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "name",
    ["token", "hf_token", "HF_TOKEN", "api_key", "apiKey", "key", "OPENAI_API_KEY", "client-secret",
     "password", "db.password", "accessToken", "hftoken", "passwd", "Authorization", "credentials"],
)  # fmt: skip
def test_names_of_secrets(name):
    assert names_secret(name)
    assert redacted({"a": [{name: CANARY}]}) == {"a": [{name: HIDDEN}]}


@pytest.mark.parametrize(
    "name",
    ["eos_token", "pad_token_id", "mask_token", "bos_token", "max_new_tokens", "tokens", "keys",
     "tokenizer", "TOKENIZERS_PARALLELISM", "keep", "monkey", "image_token", "token_ids"],
)  # fmt: skip
def test_names_that_only_look_like_it(name):
    assert not names_secret(name)
    assert redacted({name: "shown"}) == {name: "shown"}


def test_numbers_and_names_of_variables_stay(planted):
    values = {"num_key_value_heads": 2, "token": None, "key": "HF_TOKEN", "password": True}
    assert redacted(values) == values
    assert redacted({"key": CANARY}) == {"key": HIDDEN}


def test_no_option_of_ours_is_hidden():
    """A run file must be able to say every option; `key` holds the name of a variable."""
    found = set(inspect.signature(settings.setting).parameters) | set(Run.__dataclass_fields__)
    for kind, names in (
        (calls.method, calls.names("methods")), (calls.task, calls.TASKS), (calls.engine, calls.ENGINES),
    ):  # fmt: skip
        for name in names:
            found |= set(inspect.signature(kind(name)).parameters)
    assert {name for name in found if names_secret(name)} == {"key"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://user:{CANARY}@host:8000/v1", "http://***@host:8000/v1"),
        (f"git+https://{CANARY}@host/x.git", "git+https://***@host/x.git"),
        (f"https://host/a?access_token={CANARY}&n=2", "https://host/a?access_token=***&n=2"),
        (f"hf://u:{CANARY}@h and http://v:{CANARY}@w", "hf://***@h and http://***@w"),
        (f"Bearer {CANARY}-HF_TOKEN!", "Bearer ***!"),
        ("mail a@b.org, http://host/a@b", "mail a@b.org, http://host/a@b"),
    ],
)
def test_texts_lose_user_info_and_values_of_the_environment(text, shown, planted):
    assert redacted_text(text) == shown


def test_short_values_of_the_environment_are_words(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "no")
    assert redacted_text("no, thank you") == "no, thank you"


def test_every_file_of_a_run_directory_is_redacted(planted, tmp_path):
    directory = Directory(tmp_path / "run")
    hostile = {
        "kind": "step", "step": 1, "spec": {"hf_token": CANARY, "url": f"http://a:{CANARY}@h"},
        "why": f"401 for Bearer {CANARY}-OPENAI_API_KEY", f"{CANARY}-HF_TOKEN": 1,
    }  # fmt: skip
    directory.write("run.json", hostile)
    directory.append("metrics.jsonl", hostile)
    assert not holding(tmp_path)
    assert directory.read("run.json")["spec"] == {"hf_token": HIDDEN, "url": "http://***@h"}


def test_a_server_with_a_password_in_its_address_is_refused_without_it(capsys):
    for url in (f"http://user:{CANARY}@127.0.0.1:9", f"ftp://user:{CANARY}@host"):
        with pytest.raises(ValueError, match="is not allowed") as found:
            place(url)
        assert CANARY not in str(found.value)
    with pytest.raises(SystemExit):
        main(["train", "opsd", "--engine", f"server(url='http://u:{CANARY}@127.0.0.1:9')"])
    with pytest.raises(SystemExit):
        main(["train", "opsd", "--engine", f"server(url='http://127.0.0.1:9', key='{CANARY}')"])
    with pytest.raises(SystemExit):
        main(["train", "opsd", "--model", f"https://user:{CANARY}@host/model"])
    assert CANARY not in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_trackers_get_no_secret_and_make_nothing_public(name, planted, tmp_path, monkeypatch):
    said: list[tuple[str, dict]] = []
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.init = lambda **options: said.append(("init", options))
    module.log = lambda line, step: said.append(("log", {**line, "step": step}))
    module.finish = lambda: said.append(("finish", {}))
    monkeypatch.setitem(sys.modules, name, module)
    config = {"spec": {"url": f"http://a:{CANARY}@h", "api_key": CANARY}, "run": {"lr": 0.1}}
    line = {"kind": "step", "step": 3, "loss": 0.5, "ledger": {}, "text": CANARY}
    with trackers((name,), tmp_path / "run", config) as (send,):
        send(line)
        send({"kind": "fault", "step": 3, "why": CANARY})
    assert [what for what, _ in said] == ["init", "log", "finish"]
    assert CANARY not in str(said)
    first = said[0][1]
    assert first.pop("config") == {
        "spec": {"url": "http://***@h", "api_key": HIDDEN}, "run": {"lr": 0.1},
    }  # fmt: skip
    public = {"space_id": None, "private": True, "embed": False} if name == "trackio" else {}
    assert first == {"project": "autodidact", "name": "run", **public}


@pytest.mark.slow
def test_a_whole_run_leaves_no_secret_anywhere(tmp_path):
    """Secrets in the environment and in a completion's data: not in files, nor on the screen."""
    data = tmp_path / "data.jsonl"
    rows = [
        {"question": f"{n}+1=? {CANARY}-HF_TOKEN", "answer": str(n + 1), "solution": str(n + 1)}
        for n in range(6)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    env = kept | {name: f"{CANARY}-{name}" for name in VARIABLES} | {"HF_HUB_OFFLINE": "1"}
    out = tmp_path / "run"
    tail = ["--data", str(data), *QUICK, "--track", "tensorboard", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "autodidact", "train", "sft", *tail],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not holding(out)
    assert list(out.glob("tensorboard/*")) and (out / "report.html").exists()
    assert "reads" in done.stdout, "the example was shown"
    assert CANARY not in done.stdout + done.stderr
