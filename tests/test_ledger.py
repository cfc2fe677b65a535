"""The ledger against what the models were really fed, counted from outside, for every method."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from autodidact import calls
from autodidact.engines.local import Local
from autodidact.evaluate import Evaluation
from autodidact.ledger import COLUMNS, Ledger
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.microscope import look
from autodidact.model import LM
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from test_laws import METHODS, ROWS
from toys import random_masked, random_qwen, toy_task

READ_IN_CREDIT = {
    "opsa", "d3s", "forking_tokens", "hapo", "macro_actions", "poad", "ppo", "reinforce_pp", "rlfr",
    "rloo", "rmt", "tvm", "tw_grpo", "ulorl", "verifree",
}  # fmt: skip
"""Methods whose rollout or credit reads a model, though no view of theirs is of another role."""
SELECT = {"d3s", "ulorl"}
"""Methods that learn from some of the rows they drew."""
BESIDE = {"tvm", "speed_rl"}
"""Methods that train a network beside the policy alone."""

MASKED = {name for name in METHODS if ROWS[name].masked}


@dataclass
class Fed:
    """Real tokens that went through trunks, counted by hooks on the models themselves."""

    prompts: int = 0
    decoded: int = 0
    with_gradient: int = 0
    without_gradient: int = 0
    backward: int = 0
    drawn: int = 0
    rows: int = 0

    def watch(self, lm: LM) -> None:
        """Copies of the model that roles make are watched too: a deep copy keeps its hooks.

        That packed views can be read is tried out before, once for all roles.
        """
        assert lm.packs

        def before(trunk, args, kwargs):
            cache = kwargs.get("past_key_values")
            width = kwargs["input_ids"].shape[1]
            count = int(kwargs["attention_mask"][:, -width:].sum())
            if cache is None:
                name = "with_gradient" if torch.is_grad_enabled() else "without_gradient"
            else:
                name = "decoded" if cache.get_seq_length() else "prompts"
            setattr(self, name, getattr(self, name) + count)

        def after(trunk, args, kwargs, output):
            if output.last_hidden_state.requires_grad:
                count = int(kwargs["attention_mask"].sum())
                output.last_hidden_state.register_hook(lambda gradient: self._went_back(count))

        lm.base.base_model.register_forward_pre_hook(before, with_kwargs=True)
        lm.base.base_model.register_forward_hook(after, with_kwargs=True)

    def _went_back(self, count: int) -> None:
        self.backward += count


@pytest.fixture
def fed(monkeypatch):
    counter = Fed()
    draw = Local.draw

    def counted(*args):
        found = draw(*args)
        counter.drawn += sum(len(each.ids) for each in found.completions)
        counter.rows += len(found.completions)
        return found

    monkeypatch.setattr(Local, "draw", counted)
    return counter


@pytest.mark.parametrize("micro_rows", [None, 4])
@pytest.mark.parametrize("name", sorted({*METHODS} - {"minillm"} - MASKED))
def test_the_counts_are_those_of_the_tokens_really_fed(name, micro_rows, tokenizer, fed):
    lm = random_qwen(tokenizer)
    fed.watch(lm)
    task, graded_rows, models = toy_task(24), [], Models(lm)
    reward = task.reward

    def counted(problems, texts):
        graded_rows.extend(texts)
        return reward(problems, texts)

    task = replace(task, reward=counted)
    method = calls.method(name)(**ROWS[name].arguments)
    rows = 4 * method.rollout.n
    training = Training(
        method, models, task, Run(steps=2, rows=rows, micro_rows=micro_rows, lr=1e-3)
    )
    own = steps = 0
    for _ in range(2):
        batch, _ = training.advance()
        own += int(batch.own.sum())
        steps += bool(len(batch))
    ledger = models.ledger
    assert ledger.generated == fed.drawn and ledger.reused == 0
    assert ledger.prefilled == fed.prompts
    assert ledger.student_forward == fed.with_gradient
    assert (fed.with_gradient == 0) == (name in BESIDE)
    assert ledger.teacher_forward == fed.without_gradient
    assert ledger.student_backward == fed.backward == fed.with_gradient
    learned = 0 if name in BESIDE else own
    assert 0 < ledger.trained <= own if name in SELECT else ledger.trained == learned
    assert own > 0
    assert ledger.optimizer_steps == steps
    assert ledger.verified == len(graded_rows)
    assert ledger.total == (
        fed.drawn + fed.prompts + fed.without_gradient + fed.with_gradient + fed.backward
    )
    # The last token of a completion is never fed; rows that ended may be for a while.
    assert fed.decoded >= fed.drawn - fed.rows if method.rollout.draws else not fed.decoded
    reads = len(method.views(batch, models)) > 1 or name in READ_IN_CREDIT
    assert (fed.without_gradient > 0) == reads
    assert ledger.seconds > 0 and ledger.peak_bytes > 0


@pytest.mark.parametrize("name", sorted(MASKED))
def test_the_counts_of_masked_models_are_those_of_the_canvases_really_fed(name, tokenizer, fed):
    """What is read to draw is counted apart from what credits and references read."""
    lm = random_masked(tokenizer)
    fed.watch(lm)
    method, models, own = calls.method(name)(**ROWS[name].arguments), Models(lm), 0
    training = Training(method, models, toy_task(24), Run(steps=2, rows=4 * method.rollout.n))
    for _ in range(2):
        batch, _ = training.advance()
        own += int(batch.own.sum())
    ledger = models.ledger
    assert ledger.prefilled + ledger.teacher_forward == fed.without_gradient
    assert ledger.student_forward == fed.with_gradient
    assert (fed.with_gradient == 0) == (name in BESIDE) == (ledger.trained == 0)
    assert ledger.student_backward == fed.backward == fed.with_gradient
    assert (ledger.calls > 0) == (ledger.prefilled > 0) == method.rollout.draws
    assert (ledger.generated > 0) == method.rollout.draws
    assert own > 0 and fed.decoded == fed.prompts == 0


def test_a_teacher_who_writes_along_is_charged_for_it(tokenizer, fed):
    """It reads the prompts and every token that is drawn, beside what it judges."""
    lm = random_qwen(tokenizer)
    fed.watch(lm)
    models, method = Models(lm), calls.method("minillm")(n=2, length=5)
    batch, _ = Training(method, models, toy_task(8), Run(steps=1, rows=8, lr=1e-3)).advance()
    ledger, drawn = models.ledger, int(batch.own.sum())
    assert ledger.generated == drawn == ledger.trained
    assert ledger.prefilled == fed.prompts // 2
    assert ledger.teacher_forward == fed.without_gradient + fed.prompts // 2 + drawn
    assert ledger.student_forward == fed.with_gradient == fed.backward > 0


def test_more_epochs_read_again_but_draw_once(tokenizer, fed):
    lm = random_qwen(tokenizer)
    fed.watch(lm)
    models = Models(lm)
    Training(grpo(n=2, length=4, epochs=3), models, toy_task(8), Run(steps=1, rows=8)).advance()
    assert models.ledger.optimizer_steps == 3
    assert models.ledger.student_backward == fed.backward == fed.with_gradient
    assert models.ledger.generated == fed.drawn
    assert fed.with_gradient % 3 == 0


def test_looking_is_not_charged(tokenizer, fed):
    """Evaluations and the token view draw and read, and leave the ledger as it was."""
    lm = random_qwen(tokenizer)
    fed.watch(lm)
    task, models = toy_task(4), Models(lm)
    models.ledger.generated = 5
    Evaluation(task, task.test, 2, 4)(models)
    look(opsd(length=4), models, task, task.test)
    assert fed.drawn > 0 and fed.without_gradient > 0 and fed.with_gradient == 0
    assert models.ledger == Ledger(generated=5)


def test_a_rejected_update_costs_but_does_not_count_as_a_step(tokenizer):
    models = Models(random_qwen(tokenizer))
    before = [p.detach().clone() for p in models.policy.model.parameters()]
    task = toy_task(8)
    method = opsd(length=4)
    broken = replace(method, loss=lambda scores, batch: method.loss(scores, batch) * torch.inf)
    training = Training(broken, models, task, Run(steps=1, rows=4))
    _, line = training.advance()
    assert line["skipped"] == 1 and training.skips == 1
    assert models.ledger.optimizer_steps == 0 and models.ledger.student_backward > 0
    assert all(
        torch.equal(a, b) for a, b in zip(before, models.policy.model.parameters(), strict=True)
    )


def test_columns_by_name():
    ledger = Ledger(
        generated=3, prefilled=2, teacher_forward=10, student_forward=4, student_backward=4
    )
    assert ledger.total == 23 == ledger.amount("total")
    assert {name: ledger.amount(name) for name in COLUMNS} == ledger.counts()
    assert Ledger.of(ledger.counts()) == ledger
    with pytest.raises(
        ValueError, match=r"budget column 'generate' is unknown; .* did you mean 'generated'"
    ):
        ledger.amount("generate")
