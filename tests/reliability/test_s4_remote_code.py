"""S4: code that comes with a model runs only when asked for, said loudly, pinned and written down."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autodidact import api, trust
from autodidact.model import load
from autodidact.places import locate
from autodidact.run import Directory

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
from pathlib import Path
from transformers import {base}Config, {base}ForCausalLM
Path({canary!r}).touch()
class OwnConfig({base}Config):
    model_type = {kind!r}
class Own({base}ForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The tiny model with code of its own, which makes a file when it runs."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    found = tmp_path / "model"
    shutil.copytree(locate("tiny"), found)
    config = json.loads((found / "config.json").read_text())
    base = config["architectures"][0].removesuffix("ForCausalLM")
    kind = config["model_type"]
    code = CODE.format(base=base, canary=str(tmp_path / "ran"), kind=kind)
    (found / "own_code.py").write_text(code)
    auto = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.Own"}
    (found / "config.json").write_text(json.dumps(config | {"auto_map": auto}))
    return found


def test_code_of_a_known_kind_of_model_is_left_alone(folder, tmp_path):
    assert type(load(str(folder)).base).__name__ != "Own"
    assert not (tmp_path / "ran").exists()


def test_code_of_an_unknown_kind_of_model_is_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own"}))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load(str(folder))
    assert not (tmp_path / "ran").exists()


def test_code_that_is_asked_for_runs_and_this_is_said(folder, tmp_path, capsys):
    assert type(load(str(folder), trust_remote_code=True).base).__name__ == "Own"
    assert (tmp_path / "ran").exists()
    assert "trust_remote_code: code that comes with" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["owner/name", "owner/name@main", "owner/name@v1", "owner/name@0"])
def test_code_of_the_hub_needs_a_commit(name):
    with pytest.raises(ValueError, match=r"pin the commit .* owner/name@ and its 40 hex digits"):
        load(name, trust_remote_code=True)


def test_a_commit_is_what_model_code_and_tokenizer_are_read_at(capsys):
    found = trust.source(f"owner/name@{COMMIT}", code=True, pickles=False)
    assert found.place == "owner/name"
    assert found.options == {
        "revision": COMMIT, "code_revision": COMMIT, "trust_remote_code": True,
    }  # fmt: skip
    assert trust.source("owner/name@v1", code=False, pickles=False).options == {
        "revision": "v1", "trust_remote_code": False,
    }  # fmt: skip
    assert "owner/name@0123" in capsys.readouterr().err


def test_a_folder_may_not_name_code_of_the_hub(folder):
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "owner/name--own_code.OwnConfig"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto}))
    with pytest.raises(ValueError, match="names code on the hub, which nothing pins"):
        load(str(folder), trust_remote_code=True)


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path):
    folder = tmp_path / "tiny@2"
    shutil.copytree(locate("tiny"), folder)
    assert trust.source(str(folder), code=False, pickles=False).revision is None


@pytest.mark.slow
def test_the_run_file_says_it(folder, tmp_path, capsys):
    options = {"steps": 1, "rows": 2, "eval_points": 0, "eval_problems": 2, "eval_samples": 1}
    common = {"task": "tiny_calculation", "eval_length": 4, "model": str(folder), **options}
    out = api.train("sft", trust_remote_code=True, out=tmp_path / "run", **common)
    assert Directory(out, resume=True).read("run.json")["spec"]["trust_remote_code"] is True
    assert "!!!!!!!! trust_remote_code" in capsys.readouterr().err
