"""From the evaluation lines of a run to every number that its report shows.

`summarise` returns plain data for `compare.json`. An interval is `{"value", "low", "high"}`, its
level and the number of draws are stated once; its ends are `null` where there is a single number,
which says nothing about its spread. Where a budget is `null`, the target was not reached.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations
from pathlib import Path

import numpy as np

from autodidact.names import choose
from autodidact.report.estimators import Summary, Target, Tools
from autodidact.report.read import read
from autodidact.report.scored import ACCURACIES, Scored
from autodidact.statistics import Draws, resample


def summarise(
    directory: Path,
    *,
    target: float | None = None,
    reference: str | None = None,
    metric: str = "sampled",
    draws: int = 4000,
    level: float = 0.95,
    seed: int = 0,
) -> Summary:
    """Every statistic of a run directory, as plain data.

    Args:
        directory: a run of kind `compare` or `train` (one arm, one seed).
        target: the accuracy of "tokens to reach"; default `run.target` of `run.json`, else half
            of the way from the base model to the best arm (chosen after the fact, which the
            summary says; each bootstrap draw then chooses its own). `null` if no arm gained.
        reference: the arm that ratios are to; default the first `grpo`, else the first arm.
        metric: the accuracy that targets and differences are about.
        draws: bootstrap draws.
        level: of the intervals.
        seed: of the bootstrap.

    Raises:
        ValueError: not a run directory, nothing evaluated yet, arms evaluated on different
            problems, or an unknown reference or metric.
    """
    choose("metric", metric, ACCURACIES)
    record = read(directory)
    arms = [Scored.of(arm) for arm in record.arms if arm.evaluated]
    if not arms:
        raise ValueError(f"{record.folder}: nothing has been evaluated yet (metrics.jsonl)")
    names = [arm.name for arm in arms]
    if reference is None:
        methods = {arm["name"]: arm.get("method") for arm in record.call.get("arms", ())}
        reference = next((name for name in names if "grpo" in (name, methods.get(name))), names[0])
    choose("reference arm", reference, names)

    @cache
    def plan(seeds: int, problems: int) -> Draws:
        # Seeded by shape, so that arms share their draws whatever was computed before.
        return resample(seeds, problems, np.random.default_rng((seed, seeds, problems)), draws)

    tools = Tools(plan, level, metric, record.call["budget"]["column"])
    matched = {arm["name"]: arm.get("budget") for arm in record.call.get("arms", ())}
    common = [number for number in arms[0].seeds if all(number in arm.seeds for arm in arms)]
    base = tools.base(arms, common)
    if target is None:
        target = record.call["run"].get("target")
    goal = tools.halfway(arms, common) if target is None else Target(target, "stated")
    chosen = next(arm for arm in arms if arm.name == reference)
    return {
        "kind": record.call["kind"],
        "metric": metric,
        "level": level,
        "draws": draws,
        "bootstrap_seed": seed,
        "seeds": list(record.call["seeds"]),
        "problems": arms[0].problems(metric),
        "samples": arms[0].samples,
        "budget": record.call["budget"],
        "reference": reference,
        "target": goal and {"value": goal.value, "rule": goal.rule},
        "base": base,
        "arms": [tools.arm(arm, chosen, goal, base is not None) for arm in arms],
        "matched": {name: said for name, said in matched.items() if said},
        "checkpoint": record.call.get("checkpoint_rule") or record.call["run"].get("keep", "last"),
        "waiting": [arm.name for arm in record.arms if not arm.evaluated],
        "differences": [
            tools.versus(arm, other) for arm, other in permutations(arms, 2) if arm.shares(other)
        ],
    }
