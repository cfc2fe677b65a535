"""F5: a batch whose numbers went wrong is kept, and `replay` reproduces it; so it does any step."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

import autodidact
from autodidact import calls
from autodidact.cli import main
from autodidact.model import load
from autodidact.run import Directory
from autodidact.session import Silent, execute
from autodidact.settings import specify
from autodidact.train import Training
from test_parallel import joined

RUN = {
    "rows": 8, "lr": 1e-4, "eval_points": 0, "eval_problems": 2, "eval_samples": 1,
}  # fmt: skip
FLAGS = [
    part for name, value in RUN.items() for part in (f"--{name.replace('_', '-')}", str(value))
]


def spoil(monkeypatch, steps: set[int]) -> None:
    """From now on the batches of these steps hold a NaN: that of row 3, at its first token."""
    ready = Training.ready

    def broken(training):
        batch = ready(training)
        if training.step + 1 not in steps:
            return batch
        raw = batch.take("raw").clone()
        raw[3, int(batch.own[3].nonzero()[0])] = math.nan
        return batch.put(raw=raw)

    monkeypatch.setattr(Training, "ready", broken)


def lines(place: Path, kind: str) -> list[dict]:
    found = Directory(place, resume=True).lines("metrics.jsonl")
    return [line for line in found if line["kind"] == kind]


def weights(place: Path) -> dict[str, torch.Tensor]:
    newest = sorted(place.glob("checkpoints/step-*"))[-1]
    return load_file(newest / "model.safetensors")


@pytest.mark.slow
def test_a_skipped_step_is_kept_and_replayed(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    spoil(monkeypatch, {3})
    autodidact.train("grpo(n=4, epochs=2, length=16)", out=out, steps=5, save_every=2, **RUN)
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert "step 3 made no update: loss nan" in said and "kept in faults/step-000003" in said
    [fault] = lines(out, "fault")
    assert fault["step"] == 3 and fault["kept"] == "faults/step-000003"
    [place] = fault["found"]
    assert place["tensor"] == "stream 'raw'" and place["row"] == 3
    assert [line["step"] for line in lines(out, "step")] == [1, 2, 3, 4, 5]
    assert [line["skipped"] for line in lines(out, "step")] == [0, 0, 1, 0, 0]
    assert all(bool(each.isfinite().all()) for each in weights(out).values())

    found = autodidact.replay(out)
    assert found.reproduced and found.step == 3 and found.found == [place]
    assert math.isnan(found.logged["loss"]) and math.isnan(found.again["loss"])
    main(["replay", str(out), "--step", "3"])
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "reproduced"
    assert "not finite: stream 'raw': NaN in row 3" in shown

    healthy = autodidact.replay(out, 5)
    line = lines(out, "step")[4]
    assert healthy.reproduced and not healthy.found
    assert healthy.again == {"loss": line["loss"], "grad_norm": line["grad_norm"]}
    with pytest.raises(ValueError, match="has no step 9; it has 5 steps"):
        autodidact.replay(out, 9)

    kept = out / "faults" / "step-000003" / "fault.json"
    kept.write_text(kept.read_text().replace('"loss": "NaN"', '"loss": 0.25'))
    with pytest.raises(SystemExit) as stop:
        main(["replay", str(out)])
    assert stop.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == "not reproduced"


@pytest.mark.slow
def test_a_streak_stops_the_command_with_a_line_and_can_be_resumed(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    spoil(monkeypatch, set(range(2, 99)))
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "train",
                "grpo",
                "--n",
                "4",
                "--length",
                "16",
                "--steps",
                "6",
                *FLAGS,
                "--out",
                str(out),
                "--quiet",
            ]
        )
    monkeypatch.undo()
    assert stop.value.code == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("autodidact: stopped at step 4: 3 updates in a row")
    kept = sorted(path.relative_to(out / "faults").as_posix() for path in out.glob("faults/*/*"))
    assert [name for name in kept if name.endswith("checkpoint")] == ["step-000002/checkpoint"]
    assert [name for name in kept if name.endswith("batch.safetensors")] == [
        f"step-00000{step}/batch.safetensors" for step in (2, 3, 4)
    ]
    assert autodidact.replay(out, 4).reproduced
    state = json.loads((out / "checkpoints/step-000004/training/state.json").read_text())
    assert state["ledger"]["optimizer_steps"] == 1
    autodidact.resume(out)
    assert [line["skipped"] for line in lines(out, "step")] == [0, 1, 1, 1, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("who", ["policy", "teacher"])
def test_a_poisoned_folder_is_refused_before_work(tmp_path, capsys, who):
    folder, out = tmp_path / "model", tmp_path / "run"
    lm = load("tiny")
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name][0, 0] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    asked = ["--model", str(folder)] if who == "policy" else ["--teacher", str(folder)]
    with pytest.raises(SystemExit) as stop:
        main(["train", "opsd", *asked, "--steps", "2", *FLAGS, "--out", str(out)])
    assert stop.value.code == 2 and not out.exists()
    said = capsys.readouterr().err
    assert f"are not finite: 1 of {tensors[name].numel()} numbers" in said
    assert "Traceback" not in said and len(said.splitlines()) == 1


def spoiled(rank: int, place: str, how: str) -> None:
    """One of two processes of a run, the second of which sees a NaN in its third row of step 2."""
    joined(rank, place)
    ready = Training.ready

    def broken(training):
        batch = ready(training)
        if rank == 0 or training.step != 1:
            return batch
        raw = batch.take("raw").clone()
        raw[2, int(batch.own[2].nonzero()[0])] = math.nan
        return batch.put(raw=raw)

    Training.ready = broken
    run = {**RUN, "steps": 3, "parallel": how, "staleness": int(how == "ddp")}
    spec = specify(calls.parse("grpo(n=4, length=12, correct=token)"), run)
    execute(spec, Path(place, "run"), watcher=Silent())
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fsdp", pytest.param("ddp", marks=pytest.mark.long)])
def test_a_step_of_two_processes_is_kept_whole_and_replayed_by_one(tmp_path, how):
    mp.spawn(spoiled, (str(tmp_path), how), nprocs=2)
    out = tmp_path / "run"
    [fault] = lines(out, "fault")
    assert fault["step"] == 2 and fault["kept"] == "faults/step-000002"
    [place] = fault["found"]
    assert place["tensor"] == "stream 'raw'" and place["row"] == 4 + 2, "counted over both"
    kept = load_file(out / "faults" / "step-000002" / "batch.safetensors")
    assert kept["group"].unique(return_counts=True)[1].tolist() == [4, 4]
    assert [line["skipped"] for line in lines(out, "step")] == [0, 1, 0]
    found = autodidact.replay(out)
    assert found.reproduced and found.found == [place]
    if how == "fsdp":
        healthy = autodidact.replay(out, 1)
        assert healthy.reproduced and healthy.again != healthy.logged, "but for rounding"
