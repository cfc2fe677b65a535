"""What is each token worth? Methods of credit assignment at equal generated tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.studies.study import SMALL, main, study, table

from autodidact import api, calls
from autodidact.methods.sft import sft
from autodidact.model import load
from autodidact.models import Models
from autodidact.names import choose
from autodidact.noise import gradient_noise
from autodidact.run import Run
from autodidact.spec import load_policy, make_task
from autodidact.tasks.countdown import tiny_countdown
from autodidact.tasks.puzzles import key
from autodidact.train import Training, fit

ARMS = (
    "grpo",
    "dr_grpo",
    "dapo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp(baseline=true)",
    "gspo",
    "cispo",
    "ppo",
    "nft",
    "thr(p=0.1)",
    "thr(p=-0.1)",
    "tempo",
    "hapo",
    "forking_tokens",
    "forking_tokens(choose=random)",
    "forking_tokens(choose=lowest)",
    "lp_reg",
    "d3s(over=30)",
    "rlfr(blocks=2)",
    "tw_grpo",
    "macro_actions",
    "oreal(frozen=3)",
    "ulorl(budget=20, temperature=1.0)",
    "brpo(budgets='8,16,32', summaries=1, length_summary=8, after='=')",
    "capo(k=1)",
    "verifree(marker={marker!r}, bridge='', occurrence=last)",
    "ttrl(n=16, keep=8)",
    "evol_rl(n=16, keep=8)",
    "otr",
    "opsd(divergence=reverse)",
    "opsd(divergence=reverse, tokens='entropy:0.2')",
)
"""Left out: `tvm` trains no policy, `poad` asks for turns, `rmt` for a corpus, and `degrpo` for a
model with two modes."""
SETTING: dict[str, Any] = {
    **SMALL,
    "lr": 2e-4,
    "n": 8,
    "workers": 1,
}
"""One rate for all, that of `grpo` in the demo: AdamW takes steps of one size whatever the loss.
It favours no token-level method, and is not swept for any."""
BATCHES = 8
"""Batches by which the noise of a gradient is measured."""
WARM = Run(steps=600, rows=64, lr=2e-3, schedule="cosine", warmup=20, eval_points=0)
"""Supervised training that teaches the shipped model to write Countdown answers."""


MORE = 5000
"""Problems drawn for it, of which those of the comparison are left out."""


def credit(out: Path | str | None = None, **options: Any) -> Path:
    """All of them on RandomCalculation, from the shipped weights, or on=countdown.

    Args:
        out: the run directory; a fresh one under runs/ by default.
        options: of `autodidact.compare`; `arms` in place of `ARMS`, and `marker`, after whose
            last place VeriFree puts the reference answer.
    """
    if choose("on", options.pop("on", "calculation"), ("calculation", "countdown")) == "countdown":
        return on_countdown(Path("runs/countdown") if out is None else out, **options)
    marker = options.pop("marker", "=")
    arms = [arm.format(marker=marker) for arm in options.pop("arms", ARMS)]
    return study(arms, out, {**SETTING, **options}, write=lambda found: measured(found))


def on_countdown(out: Path | str, **options: Any) -> Path:
    """All of them on Countdown, from weights that `warmed` makes in `out`/base first."""
    base = Path(out) / "base"
    if not base.exists():
        warmed(base)
    given = {
        "on": "calculation",
        "model": str(base),
        "task": "tiny_countdown",
        "length": 40,
        "marker": "\n",
        **options,
    }
    return credit(Path(out) / "comparison", **given)


def warmed(folder: Path) -> None:
    """The shipped model after supervised training on worked Countdown answers.

    None of the problems is one of the comparison, neither to learn from nor held out.
    """
    task = tiny_countdown()
    known = {key(problem) for problem in (*task.train, *task.test)}
    others = tiny_countdown(train=MORE, test=0, seed=1).train
    apart = replace(task, train=[p for p in others if key(p) not in known], test=[])
    models = Models(load("tiny"))
    fit(Training(sft(), models, apart, WARM), lambda batch, line: None, lambda fraction: None)
    folder.parent.mkdir(parents=True, exist_ok=True)
    models.policy.model.save_pretrained(folder)
    models.policy.tokenizer.save_pretrained(folder)


def measured(directory: Path) -> str:
    """The table, with the noise of every arm's gradient at the first weights."""
    found = noises(directory)
    return table(
        directory,
        ("greedy", "pass@k", "distinct", "entropy", "length"),
        ("credited",),
        {"noise": {name: "" if x is None else f"{x:,.0f}" for name, x in found.items()}},
    )


def noises(directory: Path) -> dict[str, float | None]:
    """Tokens to be generated until a gradient's signal equals its noise, by arm; `None` where
    `BATCHES` batches do not tell it from zero. Kept in `noise.json`."""
    place = directory / "noise.json"
    if not place.exists():
        place.write_text(json.dumps(_noises(directory), indent=1), encoding="utf-8")
    return json.loads(place.read_text(encoding="utf-8"))


def _noises(directory: Path) -> dict[str, float | None]:
    call = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    spec = api.Spec.of(call["spec"])
    task, found = make_task(spec), {}
    for arm in call["arms"]:
        method = calls.make(calls.method, calls.Call(arm["method"], arm["arguments"]))
        if method.rollout.draws:
            models = Models(load_policy(spec))
            found[arm["name"]] = gradient_noise(method, models, task, spec.run.rows, BATCHES).scale
    return found


if __name__ == "__main__":
    main(credit)
