"""The setting of the shipped tiny model, and the comparison of `autodidact compare ... --demo`.

Minutes on two CPU cores, offline, with nothing to prepare.
"""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {"length": 40, "lr": 5e-4, "rows": 64}
"""What suits the tiny model on its own task, where a user says nothing: its answers are short,
and a model this small learns at a higher rate than the papers' models."""

RATES = {"opsd": 4e-4, "grpo": 2e-4, "sft": 4e-4, "rft": 4e-4}
"""Learning rate of each arm of the demo, tuned for each on its own."""

DEMO: dict[str, Any] = {
    **TINY,
    "model": "tiny",
    "task": "tiny_calculation",
    "untouched": "reverse_text",
    "budget": 40_000,
    "column": "generated",
    "seeds": (0, 1, 2),
    "workers": 2,
    "schedule": "cosine",
    "warmup": 2,
    "eval_points": 5,
    "eval_problems": 150,
    "eval_samples": 8,
}
"""Options of the demo; what a user says counts instead."""


def rated(arm: str) -> str:
    """An arm that is named without options, at its learning rate of the demo."""
    return f"{arm}(lr={RATES[arm]})" if arm in RATES else arm
