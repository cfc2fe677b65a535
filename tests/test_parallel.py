"""Several processes give what one gives: the battery of methods in two of them, over gloo.

Two processes go through all methods once, weights copied (`ddp`) or spread (`fsdp`), and write
down how far their gradients are from those of one process; a test reads each method's line. The
ranks have unequal shares, one reads its share in one piece and the other in pieces that are as
small as the method allows.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from autodidact import calls, parallel
from autodidact.batch import Batch
from autodidact.checkpoint import complete
from autodidact.ledger import Ledger, joint
from autodidact.measure import Rows, Tally, describe, merged
from autodidact.methods.grpo import grpo
from autodidact.methods.sft import sft
from autodidact.model import load
from autodidact.models import Models
from autodidact.run import Run
from autodidact.session import Silent, execute
from autodidact.settings import specify
from autodidact.spec import Spec
from autodidact.train import Training
from test_laws import ROWS, flat, gradient, made
from toys import random_qwen, toy_task

PARTS = ("ddp", "fsdp")
FEW = (
    "sft", "grpo", "opsd", "ppo", "tempo", "rlfr", "d_opsd", "dpo", "brpo", "gspo", "sdpo: mix",
)  # fmt: skip
"""Methods that are tried with spread weights each time; the others take `make test-long`. In the
last one rank reads two teachers while the other stands in."""
BATTERY = {
    "ddp": tuple(name for name in ROWS if ":" not in name),
    "fsdp": FEW,
    "ddp, all": tuple(name for name in ROWS if ":" in name),
    "fsdp, all": tuple(name for name in ROWS if name not in FEW),
}
CLOSE = 1e-8
IDLE = ("sft", "grpo", "opsd", "ppo", "d_opsd")
"""Methods that are tried also where one of two processes has no row at all."""
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch has no distributed part"
)


def joined(rank: int, place: str) -> None:
    """Join the other process; who waits for more than a minute is in a test that has failed."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{place}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )


def shared(batch: Batch, rank: int, idle: bool) -> Batch:
    """The rows of a third of the groups, or those of the others; or no row, or all."""
    numbers = batch.group.unique().tolist()
    cut = 0 if idle else max(1, len(numbers) // 3)
    mine = numbers[:cut] if rank == 0 else numbers[cut:]
    return batch.select([i for i, group in enumerate(batch.group.tolist()) if group in mine])


def distance(name: str, how: str, rank: int, tokenizer, idle: bool = False) -> dict[str, float]:
    method, models, batch = made(name, tokenizer)
    expected = None
    if rank == 0:
        with parallel.alone():
            expected = flat(gradient(method, models, batch))
    if how == "fsdp":
        models.shard()
    mine = shared(batch, rank, idle)
    least = int(batch.group.unique(return_counts=True)[1].max()) if method.unit == "group" else 1
    found = flat(gradient(method, models, mine, least if rank == 1 else None))
    parallel.before_totals(None)
    told = {"norm": float(found.norm()), "rows": len(mine)}
    if expected is None:
        return told
    assert len(found) == len(expected)
    return {**told, "gap": float((found - expected).norm() / expected.norm())}


def battery(rank: int, place: str, part: str) -> None:
    joined(rank, place)
    tokenizer, found = load("tiny").tokenizer, {}
    how = part.partition(",")[0]
    for name in BATTERY[part]:
        found[name] = distance(name, how, rank, tokenizer)
        if name in IDLE and part in PARTS:
            found[f"{name}, idle"] = distance(name, how, rank, tokenizer, idle=True)
        Path(place, f"{rank}.json").write_text(json.dumps(found))
    found["half"] = half(how, rank, tokenizer)
    Path(place, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def half(how: str, rank: int, tokenizer) -> dict[str, float]:
    """The trunk in bfloat16: how far one process is from float32, and how far two are from one."""
    found = {}
    for name in ("exact", "one", "two"):
        lm = replace(random_qwen(tokenizer, dtype=torch.float32), autocast=name != "exact")
        models, method, task = Models(lm), sft(), toy_task(16)
        batch = method.rollout(task.train, models, task, 0)
        if name == "two":
            if how == "fsdp":
                models.shard()
            found[name] = flat(gradient(method, models, shared(batch, rank, idle=False)))
            parallel.before_totals(None)
        else:
            with parallel.alone():
                found[name] = flat(gradient(method, models, batch))
    size = float(found["exact"].norm())
    return {
        "one": float((found["one"] - found["exact"]).norm()) / size,
        "two": float((found["two"] - found["one"]).norm()) / size,
    }


EACH = [pytest.param(part, marks=() if part in PARTS else pytest.mark.long) for part in BATTERY]


@pytest.fixture(scope="module", params=EACH)
def distances(request, tmp_path_factory):
    """What both ranks wrote down, and the reason if they did not come to the end."""
    place = tmp_path_factory.mktemp(request.param)
    reason = ""
    try:
        mp.spawn(battery, (str(place), request.param), nprocs=2)
    except mp.ProcessRaisedException as error:
        reason = str(error)
    files = [place / f"{rank}.json" for rank in range(2)]
    return [json.loads(file.read_text()) if file.exists() else {} for file in files], reason


@pytest.mark.slow
def test_two_processes_make_the_gradient_of_one(distances, request):
    """Of every method; the idle rank has no row, and the totals and sums are right all the same."""
    (first, second), reason = distances
    part = request.node.callspec.params["distances"]
    names = [*BATTERY[part], *(f"{name}, idle" for name in IDLE if part in PARTS)]
    assert [name for name in names if name not in first or name not in second] == [], reason
    far = {name: first[name]["gap"] for name in names if not first[name]["gap"] < CLOSE}
    assert far == {}
    assert all(first[name]["norm"] > 1e-6 for name in names)
    apart = [name for name in names if first[name]["norm"] != second[name]["norm"]]
    assert apart == [], "the same on both, to the last bit"
    for name in names:
        least = 0 if "idle" in name else 1
        assert least <= first[name]["rows"] < second[name]["rows"], name


@pytest.mark.slow
def test_half_precision_rounds_as_in_one_process(distances):
    found, reason = distances
    for lines in found:
        assert "half" in lines, reason
        assert 1e-4 < lines["half"]["one"] < 0.1
        assert lines["half"]["two"] < 2 * lines["half"]["one"]


# ------------------------------------------------------------------ whole runs

USUAL = {
    "steps": 3, "rows": 16, "lr": 1e-3, "eval_problems": 8, "eval_samples": 2, "eval_points": 1,
    "save_every": 1,
}  # fmt: skip
RUNS = {
    "copied": ("grpo(n=4, length=16)", {}),
    "dropped rows": ("rft(n=8, length=16)", {}),
    "ahead": ("grpo(n=4, length=16, correct=token)", {"staleness": 1}),
    "averaged teacher": (
        "opsd(length=16, teacher='ema:0.9')",
        {"parallel": "fsdp", "recompute": True, "micro_rows": 4},
    ),
    "by layers": ("opsd(length=16)", {"parallel": "fsdp", "gather": "layers"}),
    "adapter": ("opsd(length=16, teacher='ema:0.9')", {"parallel": "fsdp", "lora": 4}),
    "another teacher": (
        "on_policy_distillation(teacher='tiny', length=16)",
        {"parallel": "fsdp", "lora": 4, "gather": "layers", "engine": "local(slots=3)"},
    ),
    "beside": ("ppo(n=2, length=16)", {"parallel": "fsdp", "keep": "best"}),
    "masked": (
        "diffu_grpo(n=4, length=8, steps=None)",
        {
            "parallel": "fsdp",
            "gather": "layers",
            "model": "tiny_diffusion",
            "task": "sudoku(wording=terse, canvas=true)",
        },
    ),
}
"""A call, and options; of one process all but how the weights are spread."""
EACH_TIME = ("copied", "averaged teacher", "by layers")
SETS = {"each time": EACH_TIME, "long": tuple(name for name in RUNS if name not in EACH_TIME)}


def run(name: str, out: Path, several: bool) -> Spec:
    text, options = RUNS[name]
    spread = () if several else ("parallel", "gather")
    given = {k: v for k, v in (USUAL | options).items() if k not in spread}
    spec = specify(calls.parse(text), given)
    execute(spec, out, watcher=Silent())
    return spec


def runs(rank: int, place: str, part: str) -> None:
    """Each run; then once more from a copy without its end, the last checkpoint and the mark."""
    joined(rank, place)
    for name in SETS[part]:
        whole, cut = Path(place, "two", name), Path(place, "cut", name)
        spec = run(name, whole, several=True)
        if rank == 0:
            shutil.copytree(whole, cut)
            shutil.rmtree(complete(cut / "checkpoints")[-1])
            call = json.loads((cut / "run.json").read_text()) | {"finished": None}
            (cut / "run.json").write_text(json.dumps(call))
        torch.distributed.barrier()
        execute(spec, cut, resume=True, watcher=Silent())
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module", params=["each time", pytest.param("long", marks=pytest.mark.long)])
def ended(request, tmp_path_factory):
    """Where the runs are, which they are, and the reason if they did not come to the end."""
    place = tmp_path_factory.mktemp("runs")
    reason = ""
    try:
        mp.spawn(runs, (str(place), request.param), nprocs=2)
    except mp.ProcessRaisedException as error:
        reason = str(error)
    return place, SETS[request.param], reason


def numbers(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a line, but for time, memory and what rounding alone makes."""
    if name.rpartition(".")[2] in ("seconds", "peak_bytes", "mismatch_max", "mismatch_mean"):
        return {}
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return {name: value}
    return {k: v for key, each in pairs for k, v in numbers(each, f"{name}.{key}").items()}


def told(folder: Path) -> dict[str, Any]:
    text = (folder / "metrics.jsonl").read_text()
    return numbers([json.loads(line) for line in text.splitlines()])


def close(found: Any, expected: Any) -> bool:
    if not isinstance(expected, float):
        return found == expected
    return found == pytest.approx(expected, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_a_run_of_two_processes_is_that_of_one(ended, tmp_path):
    place, names, reason = ended
    for name in names:
        one, two = tmp_path / name, place / "two" / name
        assert (two / "tokens.json").exists(), reason
        run(name, one, several=False)
        expected, found = told(one), told(two)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert close(found[key], value), (name, key)
        first, last = (complete(folder / "checkpoints")[-1] for folder in (one, two))
        for file in sorted(first.glob("*.safetensors")):
            theirs = load_file(last / file.name)
            for key, weight in load_file(file).items():
                assert torch.allclose(theirs[key], weight, atol=1e-4), (name, key)


@pytest.mark.slow
def test_two_processes_go_on_bit_for_bit(ended):
    place, names, reason = ended
    for name in names:
        two, cut = place / "two" / name, place / "cut" / name
        assert (cut / "tokens.json").exists(), reason
        assert told(cut) == told(two)
        files = sorted((two / "checkpoints" / "step-000003").rglob("*.safetensors"))
        assert len(files) >= 2
        for file in files:
            assert (cut / file.relative_to(two)).read_bytes() == file.read_bytes(), file


# ------------------------------------------------------------------ parts


def test_one_process_is_all():
    assert (parallel.ranks(), parallel.rank(), parallel.leads()) == (1, 0, True)
    assert parallel.everywhere(3) == [3]
    assert parallel.share([1, 2, 3]) == [1, 2, 3]
    value = torch.ones(2)
    assert parallel.total(value) is value
    assert parallel.first(lambda: "done") == "done"
    with pytest.raises(FileNotFoundError):
        parallel.first(lambda: Path("nowhere").read_text())


def test_ranks_add_up_in_the_ledger():
    before = Ledger(generated=5, optimizer_steps=1, seconds=2.0, peak_bytes=7)
    ranks = [
        Ledger(generated=8, optimizer_steps=2, seconds=3.0, peak_bytes=9),
        Ledger(generated=6, optimizer_steps=2, seconds=4.0, peak_bytes=8),
    ]
    assert joint(before, ranks) == Ledger(
        generated=5 + 3 + 1, optimizer_steps=2, seconds=4.0, peak_bytes=9
    )


def test_means_over_ranks_are_those_of_all_tokens(qwen):
    """Two tallies of 1 and 3 tokens: a mean of means would say 3."""
    few, many = Tally(), Tally()
    few.tokens, few.sums, few.largest, few.ratios = 1, {"entropy": 4.0}, 0.5, [1.0, 2.0, 4.0]
    many.tokens, many.sums, many.largest, many.ratios = 3, {"entropy": 6.0}, 0.1, [3.0, 3.0, 3.0]
    found = merged([few, many]).means()
    assert found["entropy"] == 10 / 4
    assert found["mismatch_max"] == 0.5
    assert found["ess"] == pytest.approx(25 / (4 * 7))


def test_groups_of_ranks_stay_apart():
    parts = [
        Rows([(0, 0), (0, 0)], [1, 2], {"reward": [1.0, 1.0]}, 0.0),
        Rows([(1, 0), (1, 0)], [3, 4], {"reward": [0.0, 1.0]}, 5.0),
        Rows([], [], {"reward": []}, 0.0),
    ]
    found = describe(Rows.joined(parts))
    assert found["rows"] == 4 and found["spread"] == 0.5
    assert found["staleness"] == 5 / 10


def test_more_processes_than_problems_are_refused(qwen, monkeypatch):
    monkeypatch.setattr(parallel, "ranks", lambda: 3)
    with pytest.raises(ValueError, match="rows=8 are those of 2 problems, fewer than the 3"):
        Training(grpo(n=4, length=4), Models(qwen), toy_task(), Run(rows=8))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "torchrun --nproc-per-node"),
        ({"staleness": 1}, "staleness=1 with parallel='fsdp'"),
        ({"parallel": "ddp", "gather": "layers"}, "allowed: parallel='fsdp'"),
    ],
)
def test_spreading_is_refused_where_it_cannot_be(tmp_path, options, said):
    spec = specify(calls.parse("grpo(n=4, length=8)"), {**USUAL, "parallel": "fsdp", **options})
    with pytest.raises(ValueError, match=re.escape(said)):
        execute(spec, tmp_path / "out", watcher=Silent())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_torchrun_starts_them(tmp_path):
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--"]
    line += ["autodidact", "train", "sft", "--steps", "1", "--rows", "8", "--eval-problems", "4"]
    done = subprocess.run(
        [*line, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run directory") == 1, "one of them speaks"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["machine"]["processes"] == 2
