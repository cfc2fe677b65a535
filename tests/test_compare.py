"""Comparisons: arms, budgets, shared rollouts, and a small one from end to end."""

from __future__ import annotations

import json

import pytest

from autodidact.arms import arms_of
from autodidact.calls import Call
from autodidact.compare import compare
from autodidact.run import Run
from autodidact.spec import Spec
from autodidact.store import Store

COMMON = Spec(
    Call("sft"),
    Call("tiny_calculation", {"train": 64, "test": 12}),
    Run(
        budget=600,
        rows=16,
        lr=3e-4,
        eval_points=2,
        eval_problems=12,
        eval_samples=4,
        eval_length=40,
    ),
    untouched=Call("reverse_text"),
)


def test_options_go_to_the_method_or_to_its_run():
    one, two = arms_of(
        ["opsd(divergence=reverse, lr=1e-3)", "grpo"], COMMON, {"length": 30, "n": 4}
    )
    assert one.name == "opsd-reverse"
    assert one.spec.method.arguments == {"length": 30, "n": 4, "divergence": "reverse"}
    assert (one.spec.run.lr, two.spec.run.lr) == (1e-3, 3e-4)
    assert one.draws
    assert two.draws
    assert not arms_of(["sft"], COMMON, {})[0].draws


def test_arms_that_differ_by_their_run_only_are_named_by_it():
    arms = arms_of(["sft(lr=1e-3)", "sft(lr=1e-4)", "grpo(lr=1e-4)"], COMMON, {})
    assert [arm.name for arm in arms] == ["sft-lr-0.001", "sft-lr-0.0001", "grpo"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["grpoo"], "did you mean 'grpo'"),
        (["opsd(divergance=reverse)"], "did you mean 'divergence'"),
        (["opsd(seed=3)"], "has no option 'seed'"),
        (["sft", "sft"], "twice"),
        (["grpo(n=5)"], "multiple of the 5"),
        (["opsd(divergence=__import__)"], "unknown"),
        (["opsd(n=open('x'))"], "neither a literal"),
        (["opsd("], "is no call"),
    ],
)
def test_wrong_arms_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        arms_of(texts, COMMON, {})


def test_a_budget_is_needed(tmp_path):
    with pytest.raises(ValueError, match="needs a budget"):
        compare(["sft"], Spec(Call("sft"), COMMON.task), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_comparison_spends_alike_and_shares_rollouts(tmp_path):
    out = compare(
        ["opsd", "grpo(n=4)", "rft(n=4)", "sft"], COMMON, seeds=(0, 1), shared={"length": 40},
        out=tmp_path / "run", workers=2,
    )  # fmt: skip
    run = json.loads((out / "run.json").read_text())
    assert run["finished"] is not None
    assert run["checkpoint_rule"] == "last"
    last, first = {}, {}
    for arm in run["arms"]:
        for seed in run["seeds"]:
            folder = out / "arms" / arm["name"] / f"seed-{seed}"
            lines = [
                json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
            ]
            looked = [line for line in lines if line["kind"] == "eval"]
            first[arm["method"], seed], last[arm["method"], seed] = looked[0], looked[-1]
    for seed in (0, 1):
        for name in ("opsd", "grpo", "rft"):
            spent = last[name, seed]["ledger"]["generated"]
            # A step is never cut in the middle: the budget is met within one step of 16 rows.
            assert 600 <= spent < 600 + 16 * 41
        sft, opsd = last["sft", seed]["ledger"], last["opsd", seed]["ledger"]
        assert sft["generated"] == 0
        assert opsd["student_backward"] <= sft["student_backward"]
        assert sft["student_backward"] < opsd["student_backward"] + 16 * 80
        # Same weights, same seed, same problems: what one arm drew first the other read.
        reused = [last[name, seed]["ledger"]["reused"] for name in ("opsd", "grpo", "rft")]
        assert sum(reused) > 0
    starts = {json.dumps(line["problems"]) for line in first.values()}
    assert len(starts) == 1, "every arm starts from the same model and is asked the same"
    assert len(Store(out / "store.sqlite")) > 0
    summary = json.loads((out / "compare.json").read_text())
    assert {arm["name"] for arm in summary["arms"]} == {arm["name"] for arm in run["arms"]}
