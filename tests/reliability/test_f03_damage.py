"""F3: damage to a checkpoint is seen and named; a run goes on from the one before, or stops."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from stepped import TEACHER, marked, refuse, resumed, saved, says

from autodidact import api, checkpoint, files
from autodidact.best import best_of
from autodidact.calls import Call
from autodidact.cli import main
from autodidact.run import Directory, Run
from autodidact.session import execute
from autodidact.spec import Spec


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def delete(file):
    file.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, delete])
def test_any_file_of_the_newest(two, damage, tmp_path):
    found, folder = two
    names = sorted(p.relative_to(folder) for p in folder.glob("step-000002/**/*") if p.is_file())
    assert len(names) >= 8
    for name in names:
        place = tmp_path / name.name
        shutil.copytree(folder, place)
        damage(place / name)
        file = str(name.relative_to("step-000002"))
        marked(found, 77)
        with pytest.raises(ValueError, match=f"{place}/step-000002.* {file}") as error:
            checkpoint.resume(found, place, strict=True, warn=refuse)
        assert says(found) == 77 and (place / "step-000002").exists(), "strict changes nothing"
        assert damage is delete or "SHA-256" in str(error.value) or file == "manifest.json"
        said = []
        checkpoint.resume(found, place, warn=said.append)
        assert says(found) == 1
        assert said == [f"{error.value}; it is not used"]
        names = {path.name for path in place.iterdir()}
        assert names == {"step-000001", "damaged-step-000002"}
        shutil.rmtree(place)


def swap(place):
    one, two = place / "training/optimizer.safetensors", place / f"training/{AVERAGE}"
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def edited(change):
    def damage(place):
        path = place / "manifest.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()), place)))

    return damage


def forget(manifest, place):
    """A file and its line are gone."""
    (place / "training" / AVERAGE).unlink()
    del manifest["files"][f"training/{AVERAGE}"]
    return manifest


def forge(manifest, place):
    """A file is another, and its line was changed to fit."""
    flip(place / "model.safetensors")
    manifest["files"]["model.safetensors"]["sha256"] = files.digest(place / "model.safetensors")
    return manifest


AVERAGE = "ema-0.safetensors"


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (swap, AVERAGE),
        (edited(forget), "manifest.json"),
        (edited(forge), "manifest.json"),
        (edited(lambda manifest, place: {}), "manifest.json"),
        (edited(lambda manifest, place: []), "manifest.json"),
        (edited(lambda manifest, place: {"files": 1, "sha256": 2}), "manifest.json"),
    ],
    ids=["swapped", "forgotten", "forged", "emptied", "a list", "of other types"],
)
def test_swapped_files_and_edited_manifests(two, damage, names, tmp_path):
    found, folder = two
    shutil.copytree(folder, tmp_path / "two")
    damage(tmp_path / "two" / "step-000002")
    said = []
    checkpoint.resume(found, tmp_path / "two", warn=said.append)
    assert says(found) == 1
    assert len(said) == 1 and names in said[0] and "SHA-256 mismatch" in said[0]


def test_all_are_damaged(two, tmp_path):
    found, folder = two
    place = tmp_path / "two"
    shutil.copytree(folder, place)
    for step in (1, 2):
        flip(place / f"step-00000{step}" / "model.safetensors")
    marked(found, 77)
    with pytest.raises(ValueError, match=r"no checkpoint that is intact.*step-000002, step-000001"):
        checkpoint.resume(found, place, warn=lambda text: None)
    assert says(found) == 77 and len(list(place.iterdir())) == 2


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["policy", TEACHER, "optimizer"])
def test_weights_that_are_not_finite_are_not_saved(two, part, wrong, tmp_path):
    """One bad step may not replace what is good; the file and the number are named."""
    found, folder = two
    shutil.copytree(folder, tmp_path / "two")
    marked(found, 3)
    kept = found.optimizer.state_dict()
    first = next(found.models.policy.model.parameters())
    if part == "optimizer":
        found.optimizer.state[first] = {
            "step": torch.ones(()), "exp_avg": torch.full_like(first, wrong),
            "exp_avg_sq": torch.ones_like(first),
        }  # fmt: skip
        name = "exp_avg in optimizer"
    else:
        next(found.models[part].model.parameters()).data.view(-1)[3] = wrong
        name = "embed_tokens.weight in " + ("the model" if part == "policy" else "ema-0")
    try:
        with pytest.raises(ValueError, match=rf"step-000003 is refused: \d+ numbers of .*{name}"):
            checkpoint.save(found, tmp_path / "two")
    finally:
        found.optimizer.state.clear()
        found.optimizer.load_state_dict(kept)
    assert resumed(found, tmp_path / "two") == 2


def test_another_format_is_said_to_be_one(two, tmp_path):
    found, folder = two
    path = tmp_path / "two" / "step-000002"
    shutil.copytree(folder, tmp_path / "two")
    state = path / "training" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "format": 1}))
    from autodidact.manifest import write_manifest

    (path / "manifest.json").unlink()
    write_manifest(path)
    with pytest.raises(ValueError, match=r"another version of autodidact \(format 1\)"):
        checkpoint.resume(found, tmp_path / "two", warn=refuse)


def test_more_than_a_million_steps_are_in_order(two, tmp_path):
    found, _ = two
    for step in (999_999, 1_000_000):
        saved(found, tmp_path / "many", step)
    assert resumed(found, tmp_path / "many") == 1_000_000


# ------------------------------------------------------------------ a whole run


RUN = Run(steps=3, rows=2, lr=1e-3, eval_points=1, eval_problems=1, eval_samples=1, eval_length=3,
          save_every=1)  # fmt: skip
SPEC = Spec(Call("sft"), Call("tiny_calculation", {"train": 10, "test": 2}), RUN)


@pytest.mark.slow
def test_a_run_goes_on_from_the_one_before_and_says_so(tmp_path, capsys):
    whole, place = execute(SPEC, tmp_path / "whole"), tmp_path / "broken"
    execute(replace(SPEC), place)
    directory = Directory(place, resume=True)
    directory.write("run.json", {**directory.read("run.json"), "finished": None})
    flip(place / "checkpoints" / "step-000003" / "model.safetensors")
    with pytest.raises(SystemExit) as stop:
        main(["train", "--resume", str(place), "--strict"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1
    assert f"{place / 'checkpoints' / 'step-000003'}: model.safetensors" in said
    with pytest.raises(ValueError, match="SHA-256 mismatch"):
        api.resume(place, strict=True)
    main(["train", "--resume", str(place), "--quiet"])
    said = capsys.readouterr().err
    assert "warning: " in said and "step-000003: model.safetensors is not as it was written" in said
    assert (place / "checkpoints" / "damaged-step-000003").is_dir()
    one, two = (each / "checkpoints/step-000003/model.safetensors" for each in (whole, place))
    assert one.read_bytes() == two.read_bytes()
    assert (whole / "samples.jsonl").read_bytes() == (place / "samples.jsonl").read_bytes()


def test_a_best_checkpoint_that_is_damaged_is_the_one_before(two, tmp_path):
    _, folder = two
    for step in (1, 2):
        shutil.copytree(folder / f"step-00000{step}", tmp_path / f"best-00000{step}")
    lines = [{"step": step, "validation": score} for step, score in ((1, 0.2), (2, 0.5), (3, 0.4))]
    assert best_of(lines, tmp_path, strict=True, warn=refuse) == (0.5, "best-000002")
    flip(tmp_path / "best-000002" / "model.safetensors")
    with pytest.raises(ValueError, match=r"best-000002: model\.safetensors is not as it was"):
        best_of(lines, tmp_path, strict=True, warn=refuse)
    said = []
    assert best_of(lines, tmp_path, strict=False, warn=said.append) == (0.2, "best-000001")
    assert len(said) == 1 and "best-000002" in said[0]
    assert best_of([], tmp_path, strict=False, warn=refuse) is None
    assert not list(tmp_path.glob("best-*"))
