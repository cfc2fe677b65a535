"""Drawing ahead: the same as a loop by hand, on any rerun, after any checkpoint; nothing else."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import dataclass, replace

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from autodidact import checkpoint
from autodidact.ahead import Ahead, dated, keep_apart
from autodidact.calls import Call
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.learn import learn
from autodidact.method import Rollout
from autodidact.methods.dapo import dapo
from autodidact.methods.dpo import dpo
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.methods.ppo import ppo
from autodidact.methods.sft import sft
from autodidact.model import load
from autodidact.models import Models
from autodidact.run import Run
from autodidact.session import Watcher, execute
from autodidact.spec import Spec
from autodidact.train import Training, fit, problems_at
from toys import generate, photograph, random_qwen, toy_task

METHOD = grpo(n=2, length=6, correct="token")
RUN = Run(steps=4, rows=8, lr=1e-2, seed=2)
TASK = toy_task(9)


def training(tokenizer, staleness=0, method=METHOD, **run) -> Training:
    run = replace(RUN, staleness=staleness, **run)
    return Training(method, Models(random_qwen(tokenizer)), TASK, run)


def weights(found: Training) -> torch.Tensor:
    parameters = found.models.policy.model.parameters()
    return torch.cat([p.detach().flatten() for p in parameters])


def timeless(line):
    ledger = {k: v for k, v in line["ledger"].items() if k not in ("seconds", "peak_bytes")}
    return {**line, "ledger": ledger}


def advanced(found: Training, steps: int = 4):
    """(batches, lines, weights at the end) of so many steps."""
    made = [found.advance() for _ in range(steps)]
    found.close()
    return [b for b, _ in made], [timeless(line) for _, line in made], weights(found)


def same_batch(one, two) -> bool:
    left, right = photograph(one), photograph(two)
    return left.keys() == right.keys() and one.rows == two.rows and all(
        torch.equal(left[k].nan_to_num(-7), right[k].nan_to_num(-7)) for k in left
    )  # fmt: skip


def by_hand(tokenizer, staleness: int, method=METHOD):
    """The same steps one after the other: weights are kept, and put into a second model to draw."""
    trainer, sampler = Models(random_qwen(tokenizer)), Models(random_qwen(tokenizer))
    weights = trainer.policy.model.parameters()
    optimizer = torch.optim.AdamW(weights, lr=RUN.lr, weight_decay=0.0, fused=True)
    kept, batches, losses = [], [], []
    count = method.rollout.problems(RUN.rows)
    for step in range(RUN.steps):
        kept.append(copy.deepcopy(trainer.policy.model.state_dict()))
        age = max(0, step - staleness)
        sampler.policy.model.load_state_dict(kept[age])
        problems = problems_at(TASK.train, step * count, count, RUN.seed)
        batch = method.rollout(problems, sampler, TASK, RUN.seed * 1_000_003 + step)
        batch = dated(batch if "reward" in batch.streams else grade(batch, sampler), age)
        losses.append(learn(method, trainer, batch, optimizer, RUN)["loss"])
        batches.append(batch)
    end = torch.cat([p.detach().flatten() for p in trainer.policy.model.parameters()])
    return batches, losses, end


@pytest.mark.parametrize("method", [METHOD, dapo(n=2, length=6, waves=2)], ids=lambda m: m.name)
@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_it_is_the_loop_by_hand_with_the_same_delays_bit_for_bit(tokenizer, staleness, method):
    batches, losses, end = by_hand(tokenizer, staleness, method)
    found, lines, weights = advanced(training(tokenizer, staleness, method))
    for one, two in zip(found, batches, strict=True):
        assert same_batch(one, two)
    assert [line["loss"] for line in lines] == losses
    assert torch.equal(weights, end)
    ages = [min(step, staleness) for step in range(4)]
    assert [line["staleness"] for line in lines] == ages
    assert [line["mismatch_max"] > 1e-4 for line in lines] == [age > 0 for age in ages]


def test_a_rerun_is_the_same_and_another_staleness_is_not(tokenizer):
    ends = [advanced(training(tokenizer, k)) for k in (1, 1, 0, 2)]
    assert ends[0][1] == ends[1][1] and torch.equal(ends[0][2], ends[1][2])
    assert not torch.equal(ends[0][2], ends[2][2]) and not torch.equal(ends[0][2], ends[3][2])


def test_the_ledger_is_that_of_the_rows_that_were_learned_from(tokenizer):
    batches, lines, _ = advanced(training(tokenizer, 2))
    tokens = [int(batch.own.sum()) for batch in batches]
    spent = [line["ledger"]["generated"] for line in lines]
    assert spent == [sum(tokens[: i + 1]) for i in range(4)]
    at_once = advanced(training(tokenizer, 0))[1]
    for name in ("prefilled", "verified", "optimizer_steps"):
        assert lines[-1]["ledger"][name] == at_once[-1]["ledger"][name] > 0


# ------------------------------------------------------------------ who may, and how far


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        (opsd(length=4), "'opsd' takes every token .* give correct='token', or take staleness=0"),
        (replace(dpo(n=2, length=4), stale=False), "'dpo' .* learn from it; take staleness=0"),
    ],
    ids=["opsd", "dpo"],
)
def test_a_loss_that_is_wrong_on_old_tokens_is_refused_with_the_remedy(tokenizer, method, remedy):
    with pytest.raises(ValueError, match=rf"staleness=1: the loss of {remedy}"):
        training(tokenizer, 1, method)


def test_corrected_or_undrawn_tokens_may_be_old(tokenizer):
    for method in (opsd(length=4, correct="mask"), opsd(length=4, ratio_clip=2.0), grpo(n=2)):
        training(tokenizer, 1, method)
    given = training(tokenizer, 3, sft())
    assert given.ahead is None
    _, line = given.advance()
    assert "staleness" not in line


def test_staleness_is_at_least_none():
    with pytest.raises(ValueError, match="staleness=-1 is not allowed"):
        Run(staleness=-1)


@dataclass(frozen=True)
class Counted(Rollout):
    """Counts what is asked of it, and fails at a step if told so."""

    inner: Rollout
    seen: list
    fails: int = -1
    n: int = 2

    def __call__(self, problems, models, task, seed):
        self.seen.append((seed, threading.current_thread() is threading.main_thread()))
        if len(self.seen) - 1 == self.fails:
            raise LookupError("out of ink")
        return self.inner(problems, models, task, seed)


def counted(**options):
    seen = []
    return replace(METHOD, rollout=Counted(METHOD.rollout, seen, **options)), seen


@pytest.mark.parametrize("staleness", [1, 3, 9])
def test_nothing_is_drawn_beyond_the_last_step(tokenizer, staleness):
    method, seen = counted()
    found = training(tokenizer, staleness, method, eval_points=0)
    fit(found, lambda batch, line: None, lambda fraction: None)
    assert seen == [(2 * 1_000_003 + step, False) for step in range(4)]


@pytest.mark.parametrize("staleness", [0, 2])
def test_what_a_budget_leaves_unused_is_not_charged(tokenizer, staleness):
    method, seen = counted()
    found, spent = training(tokenizer, staleness, method, steps=None, budget=120), []
    fit(found, lambda batch, line: spent.append(int(batch.own.sum())), lambda fraction: None)
    assert sum(spent) == found.models.ledger.generated
    assert sum(spent[:-1]) < 120 <= sum(spent)
    assert len(spent) <= len(seen) <= len(spent) + staleness
    assert found.ahead is None or not found.ahead.waiting


def test_an_error_of_the_thread_comes_up_in_the_step_that_takes_the_batch(tokenizer):
    method, _ = counted(fails=2)
    found = training(tokenizer, 2, method)
    found.advance(), found.advance()
    with pytest.raises(LookupError, match="out of ink"):
        found.advance()
    found.close()


# ------------------------------------------------------------------ copies


def test_what_draws_is_not_moved_by_updates_and_frozen_weights_are_shared():
    models = Models(load("tiny", lora=2))
    for role in ("initial", "ema:0.5"):
        models[role]
    ahead = Ahead(METHOD.rollout, TASK, models)
    still = ahead.still(models)
    here, there = (dict(m.policy.model.named_parameters()) for m in (models, still))
    for name, value in here.items():
        assert torch.equal(value, there[name])
        shared = value.data_ptr() == there[name].data_ptr()
        assert shared == (not value.requires_grad), name
        assert not there[name].requires_grad and value.requires_grad == ("lora_" in name)
    assert still["initial"].model is still.policy.model and still["initial"].adapter_off
    with torch.no_grad():
        for value in here.values():
            if value.requires_grad:
                value += 1.0
        for value in models["ema:0.5"].model.parameters():
            value += 1.0
    for role, name in (("policy", "lora_B.default.weight"), ("ema:0.5", "q_proj.weight")):
        one, two = (dict(m[role].model.named_parameters()) for m in (models, still))
        place = next(each for each in one if each.endswith(name))
        assert torch.allclose(one[place], two[place] + 1.0)
    assert still.store is None and still.policy.tokenizer is ahead.tokenizer
    assert still.policy.tokenizer is not models.policy.tokenizer


def test_a_network_that_guides_a_search_is_copied_with_its_weights(tokenizer):
    method = ppo(n=2, length=4)
    models = Models(random_qwen(tokenizer))
    network = models.trained(method.auxiliaries[0]).network
    ahead = Ahead(method.rollout, TASK, models)
    copied = ahead.still(models).trained(method.auxiliaries[0]).network
    for mine, theirs in zip(network.parameters(), copied.parameters(), strict=True):
        assert mine is not theirs and torch.equal(mine, theirs)
    ahead.close()


def test_threads_answer_for_themselves_in_the_tables_of_transformers():
    keep_apart()
    keep_apart()
    native, seen = ALL_ATTENTION_FUNCTIONS["sdpa"], []

    def look():
        seen.append(ALL_ATTENTION_FUNCTIONS["sdpa"])

    ALL_ATTENTION_FUNCTIONS["sdpa"] = look
    try:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is look and seen == [native]
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is native


def test_both_threads_read_packed_views_at_once(tiny):
    """The tables are the only state that packed reading shares: many readings, none disturbed."""
    keep_apart()
    prompts = [[5 + i] * (3 + 9 * i) for i in range(4)]
    other = copy.deepcopy(tiny.model)

    def drawn(lm):
        return generate(lm, prompts, [range(2)] * 4, 4, Law(), 1)

    expected, found = drawn(tiny), []
    lm = replace(tiny, model=other)
    thread = threading.Thread(target=lambda: found.extend(drawn(lm) for _ in range(10)))
    thread.start()
    mine = [drawn(tiny) for _ in range(10)]
    thread.join()
    assert len(found) == 10 and all(each == expected for each in [*mine, *found])


# ------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("staleness", [1, 2])
def test_a_training_goes_on_from_every_step_bit_for_bit(tokenizer, staleness, tmp_path):
    whole = training(tokenizer, staleness)
    batches, lines, paths = [], [], []
    for _ in range(4):
        paths.append(checkpoint.save(whole, tmp_path))
        batch, line = whole.advance()
        batches.append(batch)
        lines.append(timeless(line))
    for step, path in enumerate(paths):
        resumed = training(tokenizer, staleness)
        checkpoint.restore(resumed, path)
        found, again, end = advanced(resumed, 4 - step)
        assert all(map(same_batch, found, batches[step:]))
        assert again == lines[step:]
        assert torch.equal(end, weights(whole))
    held = json.loads((paths[2] / "training" / "state.json").read_text())["ahead"][0]
    assert len(held) == min(staleness, 4 - 2)


def test_batches_of_a_longer_lead_are_refused(tokenizer, tmp_path):
    found = training(tokenizer, 2)
    found.advance()
    path = checkpoint.save(found, tmp_path)
    with pytest.raises(ValueError, match="2 batches that were drawn ahead, more than staleness=1"):
        checkpoint.restore(training(tokenizer, 1), path)


class Pull(Watcher):
    """Pulls the plug after the third step."""

    def step(self, line, fraction):
        if line["step"] == 3:
            raise KeyboardInterrupt


def test_a_run_resumes_from_its_directory(tmp_path):
    spec = Spec(
        Call("grpo", {"length": 12, "n": 4, "top_k": 20}),
        Call("tiny_calculation", {"train": 20, "test": 4}),
        Run(steps=5, rows=8, lr=1e-3, eval_points=2, eval_problems=2, eval_samples=2,
            eval_length=8, save_every=2, staleness=2),
        lora=2,
    )  # fmt: skip
    whole = execute(spec, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path / "broken", watcher=Pull())
    resumed = execute(spec, tmp_path / "broken", resume=True)
    one, two = (
        [
            timeless(line)
            for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        ]
        for folder in (whole, resumed)
    )
    assert one == two and [x["staleness"] for x in one if x["kind"] == "step"] == [0, 1, 2, 2, 2]
