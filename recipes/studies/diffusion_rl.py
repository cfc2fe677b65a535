"""Which surrogate teaches a masked model what? Reinforcement learning at equal model calls."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes.modular_sum import untrained

from autodidact import calls
from autodidact.engines.denoise import Denoise
from autodidact.evaluate import Evaluation
from autodidact.model import load
from autodidact.models import Models
from autodidact.problem import Task
from autodidact.run import Run
from autodidact.statistics import estimate, resample
from autodidact.tasks.modular_sum import modular_sum
from autodidact.tasks.sudoku import sudoku
from autodidact.train import Training, fit

ARMS = (
    "diffu_grpo(n={n}, steps=none, block=none, epochs=1, kl=0.0, temperature=1.0)",
    "wd1(n={n}, steps=none, block=none, epochs=1, temperature=1.0)",
    "espo(n={n}, steps=none, block=none, epochs=1, kl=0.0, temperature=1.0)",
    "spg(n={n}, steps=none, epochs=1, temperature=1.0)",
    "trace_rl(n={n}, steps=none, block=none, shrink=1, kl=0.0, temperature=1.0)",
    "just_grpo(n={n})",
    "mdpo(n={n}, steps=none, block=none, kl=0.0, temperature=1.0)",
    "dcolt(n={n}, steps=none, block=none, head_lr=1e-3)",
    "igpo(n={n}, steps=none, block=none, epochs=1, kl=0.0, piece_low=1, piece_high=2, "
    "temperature=1.0)",
    "d_opsd(n={n}, steps=none, block=none, temperature=1.0)",
)
"""One update on each rollout, one token a step, no penalty."""
SEEDS = (0, 1, 2)


def diffusion_rl(
    out: Path | str,
    which: str = "modular_sum",
    budget: int | None = None,
    arms: Sequence[str] = ARMS,
) -> Path:
    """Every arm with every seed from the same weights, at equal calls; a table at the end.

    Args:
        which: "modular_sum", from untrained weights, or "sudoku", from the early checkpoint.
        budget: canvases read to draw.

    Returns:
        The file of results, one line an arm and a seed; what it holds is not run again.
    """
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    setting = SETTINGS[which](place)
    results = place / f"{which}.jsonl"
    known = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    done = {(line["arm"], line["seed"]) for line in known}
    for arm in arms:
        for seed in SEEDS:
            if (arm, seed) not in done:
                line = {"arm": arm, "seed": seed, **_run(arm, seed, setting, budget)}
                known.append(line)
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{arm}, seed {seed}: {line['ends']}", flush=True)
    print(table(known))
    return results


def _modular(place: Path) -> dict[str, Any]:
    model = place / "untrained"
    if not model.exists():
        lm = untrained()
        lm.model.save_pretrained(model)
        lm.tokenizer.save_pretrained(model)
    return {
        "model": str(model), "task": modular_sum(train=400, test=100), "n": 16, "rows": 256,
        "lr": 1e-3, "budget": 230_000, "parallel": 1, "length": 4,
    }  # fmt: skip


def _sudoku(place: Path) -> dict[str, Any]:
    task = sudoku(empties=8, wording="terse", train=2000, test=200, canvas=True)
    return {
        "model": "tiny_diffusion_early", "task": task, "n": 8, "rows": 128, "lr": 1e-4,
        "budget": 150_000, "parallel": 4, "length": 16,
    }  # fmt: skip


SETTINGS = {"modular_sum": _modular, "sudoku": _sudoku}
"""What each task starts from. `parallel`: steps for the whole canvas in parallel decoding."""


def _run(arm: str, seed: int, setting: Mapping[str, Any], budget: int | None) -> dict[str, Any]:
    torch.set_num_threads(1)
    method = calls.make(calls.method, calls.parse(arm.format(n=setting["n"])))
    models, task = Models(load(setting["model"])), setting["task"]
    run = Run(
        budget=budget or setting["budget"], column="calls", rows=setting["rows"],
        lr=setting["lr"], seed=seed, eval_points=0,
    )  # fmt: skip
    first = _ends(models, task, setting)
    training = Training(method, models, task, run)
    fit(training, lambda batch, line: None, lambda fraction: None)
    counts = {k: models.ledger.counts()[k] for k in ("calls", "student_backward", "seconds")}
    return {"first": first, "ends": _ends(models, task, setting), "step": training.step, **counts}


def _ends(models: Models, task: Task, setting: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy of sampled answers, one token a step and in parallel, and how many differ."""
    found: dict[str, Any] = {}
    for name, steps in (("sequential", None), ("parallel", setting["parallel"])):
        models.engine = Denoise(steps)
        seen = Evaluation(task, task.test, 4, setting["length"])(models)
        problems = [sum(each) / len(each) for each in seen["problems"]["sampled"]]
        found[name] = {"accuracy": problems, "distinct": seen["metrics"].get("distinct")}
    models.engine = None
    return found


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Accuracies in per cent with 95% intervals over seeds and problems, in Markdown."""
    rows = [["arm", "sequential", "parallel", "distinct", "updates", "backward tokens", "seconds"]]
    rows.append(["---"] + ["---:"] * 6)
    first = [line["first"] for line in lines[:1]]
    rows.append(["before", *_row(first), "", "", ""])
    for arm in dict.fromkeys(line["arm"] for line in lines):
        own = [line for line in lines if line["arm"] == arm]
        name = arm.partition("(")[0]
        rest = [np.mean([line[k] for line in own]) for k in ("step", "student_backward", "seconds")]
        rows.append([name, *_row([line["ends"] for line in own]), *(f"{x:,.0f}" for x in rest)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(ends: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for kind in ("sequential", "parallel"):
        values = np.array([end[kind]["accuracy"] for end in ends])
        value, low, high = estimate(values, resample(*values.shape, np.random.default_rng(0)))
        found.append(f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    return [*found, f"{np.mean([end['sequential']['distinct'] for end in ends]):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=diffusion_rl.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=sorted(SETTINGS), default="modular_sum")
    parser.add_argument("--budget", type=int)
    given = parser.parse_args()
    diffusion_rl(given.out, given.task, given.budget)


if __name__ == "__main__":
    main()
