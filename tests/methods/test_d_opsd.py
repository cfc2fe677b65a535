"""d-OPSD: what the teacher sees, which positions count, and why words are not clipped singly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.credits.peeking import Peek
from autodidact.credits.visited import here, steps_mean, visited
from autodidact.divergence import Divergence
from autodidact.grade import grade
from autodidact.learn import credited, gradients
from autodidact.methods.d_opsd import d_opsd
from autodidact.models import Models
from autodidact.problem import Problem
from autodidact.rollouts.sample import Sample
from autodidact.rollouts.tries import Tries
from autodidact.tasks.sudoku import sudoku
from toys import perturb, random_masked, rows_of, toy_task

ORDERS = [[2, 1, 3, 3, 0], [4, 3, 2, 1]]
"""Steps of two canvases of 5 and 4 places, the last place of the first being given."""


def written(orders=ORDERS):
    batch = rows_of([len(each) for each in orders])
    flat = [float(step) for each in orders for step in each]
    empty = torch.zeros(batch.own.shape)
    order = empty.masked_scatter(batch.own, torch.tensor(flat))
    return replace(batch, own=batch.own & (order > 0)).put(
        order=order, canvas=batch.own.to(order.dtype)
    )


@pytest.fixture
def models(tokenizer):
    return Models(random_masked(tokenizer))


def drawn(models, method, task=None):
    task = task or toy_task(8)
    return method.rollout(task.train, models, task, 3)


def small(**options):
    return d_opsd(**{"n": 4, "length": 5, "steps": None, "block": 2, "k": 5, **options})


def test_each_canvas_is_the_text_with_its_later_tokens_hidden():
    found = visited(written())
    assert found.take("trace").tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert found.take("step").tolist() == [1, 2, 3, 1, 2, 3, 4]
    assert found.take("still")[:, 1:].tolist() == [
        [1, 1, 1, 1, 0], [1, 0, 1, 1, 0], [0, 0, 1, 1, 0],
        [1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0],
    ]  # fmt: skip
    assert torch.equal(found.own, found.take("still") == 1)


def test_the_block_that_is_written_is_known_from_the_step():
    found = here(visited(written([[2, 1, 3, 4, 0]])), 2)[:, 1:].int().tolist()
    assert found == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]]


def test_means_are_over_positions_then_steps_then_rows():
    found = visited(written())
    weight = steps_mean(found)
    assert weight.sum(1).tolist() == pytest.approx([1 / 6] * 3 + [1 / 8] * 4)
    assert torch.equal(weight > 0, found.own)


def test_a_teacher_sees_that_share_of_what_lies_ahead_and_ever_less_of_it():
    steps = visited(written([[1, 2, 3, 4, 5, 6, 7, 8]] * 2))
    shown = Peek(0.5, None).places(steps)
    seen = shown[:8].int()
    assert (seen[:-1] >= seen[1:]).all() and not (shown & (steps.take("still") == 0)).any()
    assert int(seen[0].sum()) in (3, 4), "4 of 8, of which the first step may have written one"
    assert Peek(1.0, None).places(steps)[:8].sum(1).tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert Peek(1.0, 4).places(steps)[:8].sum(1).tolist() == [4] * 4 + [0] * 4
    assert not Peek(0.0).places(steps).any()


def test_a_teacher_reads_the_canvas_with_the_tokens_ahead(models):
    batch = drawn(models, small())
    peek = Peek(1.0, None)
    steps = visited(batch)
    seen = peek.credit(steps, models)
    fed = peek.view(seen, models, "policy").ids
    order, step = seen.take("order"), seen.take("step")[:, None]
    assert torch.equal((fed == models.policy.mask) & seen.real, (order == step) & seen.real)
    ahead = order > step
    assert ahead.any() and torch.equal(fed[ahead], seen.ids[ahead])
    assert not (seen.own & ahead).any(), "what is seen is not asked"


def test_a_solution_stands_at_its_places(models):
    task = sudoku(8, "terse", canvas=True, train=1, test=1)
    key = task.train[0].solution
    ids = torch.tensor([models.policy.encode(key)[:-1]])
    order = torch.tensor([[0.0 if cell else 1.0 + i for i, cell in
                           enumerate(task.canvas(task.train[0]))]])  # fmt: skip
    batch = replace(
        rows_of([16], task=task, prompt=0), ids=(ids + 1), rows=(task.train[0],), own=order > 0
    ).put(order=order, canvas=torch.ones(1, 16))
    seen = Peek(0.5, None, "solution").credit(visited(batch), models)
    shown = seen.take("shown") == 1
    fed = Peek(0.5, None, "solution").view(seen, models, "policy").ids
    assert shown.any() and torch.equal(fed[shown], ids.expand(len(fed), -1)[shown])


def test_nothing_revealed_and_equal_weights_teach_nothing(models):
    batch = drawn(models, small())
    for divergence in ("reverse", "forward", "jsd"):
        method = small(reveal=0.0, divergence=divergence)
        assert max(float(g.abs().max()) for g in gradients(method, models, batch).policy) < 1e-12
    found = gradients(small(reveal=0.5), models, batch).policy
    assert max(float(g.abs().max()) for g in found) > 1e-3


def test_all_words_of_a_list_are_the_full_divergence(models):
    assert models["initial"]
    batch = drawn(models, small())
    perturb(models.policy)
    full = gradients(small(reveal=0.5, support="full", form="tail"), models, batch).policy
    listed = gradients(small(reveal=0.5, k=261), models, batch).policy
    for a, b in zip(full, listed, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_the_positions_of_which_the_teacher_is_surest_are_asked(models):
    batch = drawn(models, small())
    method = small(positions=1, block=None, reveal=0.3)
    found = credited(method, models, batch)
    peek = Peek(0.3, None)
    wide = peek.credit(visited(batch), models)
    sure = models.score(peek.view(wide, models, "initial"), wide, 1.0).topk(1)[1].squeeze(-1)
    best = torch.where(wide.own, sure, -torch.inf).argmax(1)[wide.own.any(1)]
    assert torch.equal(found.own.int().argmax(1), best) and (found.own.sum(1) == 1).all()


def test_of_several_tries_the_first_right_one_counts_or_the_best_that_will_do(models):
    task, engine = toy_task(8), small().rollout.engine
    every = Sample(4, 5, engine=engine)(task.train, models, task, 3)
    rewards = grade(every, models).take("reward").view(8, 4)
    for least in (1.0, 0.5, 0.0):
        models.ledger.generated = 0
        batch = Tries(4, 5, least, engine=engine)(task.train, models, task, 3)
        kept = [
            (i, 4 * i + int(row.argmax())) for i, row in enumerate(rewards)
            if float(row.max()) >= least
        ]  # fmt: skip
        assert [row.question for row in batch.rows] == [task.train[i].question for i, _ in kept]
        same = every.select([row for _, row in kept])
        assert torch.equal(batch.ids, same.ids) and torch.equal(batch.own, same.own)
        tried = sum(int(row.argmax()) + 1 if row.max() == 1 else 4 for row in rewards)
        assert models.ledger.generated == 5 * tried
    none = replace(task, reward=lambda problems, texts: [0.0] * len(texts))
    assert not len(Tries(2, 5, engine=engine)(task.train, models, none, 3))


def descended(divergence: Divergence) -> tuple[torch.Tensor, float]:
    """Where gradient descent from the uniform law ends, and the loss there."""
    teacher = torch.tensor([[0.9, 0.06, 0.03, 0.01]], dtype=torch.float64).log()
    logits = torch.zeros(1, 4, dtype=torch.float64)
    value = torch.zeros(1)
    for _ in range(1500):
        logp = logits.log_softmax(-1)
        value, slopes, _ = divergence.measure(logp, teacher)
        logits = logits - 0.5 * (slopes - logp.exp() * slopes.sum(-1, keepdim=True))
    return logits.softmax(-1)[0], float(value)


def test_clipped_words_lead_away_from_the_teacher_and_are_refused():
    """A loss that is below zero away from p = q: descent ends at (.33, .22, .22, .22)."""
    p, value = descended(Divergence("reverse", clip=0.05, clip_kind="pointwise"))
    assert p.tolist() == pytest.approx([0.33, 0.22, 0.22, 0.22], abs=0.01)
    assert value == pytest.approx(-0.18, abs=0.01)
    p, value = descended(Divergence("reverse", clip=50.0, clip_kind="token"))
    assert p.tolist() == pytest.approx([0.9, 0.06, 0.03, 0.01], abs=1e-6) and abs(value) < 1e-9
    for kind in ("pointwise", "symmetric"):
        with pytest.raises(ValueError, match="allowed: 'token'"):
            d_opsd(clip=0.05, clip_kind=kind)


def test_positions_beyond_the_clip_have_no_gradient(models):
    batch = drawn(models, small())
    free = gradients(small(reveal=0.5, clip=100.0), models, batch).policy
    plain = gradients(small(reveal=0.5), models, batch).policy
    assert all(torch.equal(a, b) for a, b in zip(free, plain, strict=True))
    cut = gradients(small(reveal=0.5, clip=1e-9), models, batch).policy
    assert max(float(g.abs().max()) for g in cut) < 1e-12


def test_bad_options_are_refused(models):
    for options, said in (
        ({"positions": 0}, "positions=0"), ({"reveal": 1.2}, "from 0 to 1"),
        ({"source": "answer"}, "solution"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            d_opsd(**options)
    batch = drawn(models, small())
    untold = replace(batch, rows=tuple(Problem("?") for _ in batch.rows))
    with pytest.raises(ValueError, match="no solution"):
        credited(small(source="solution"), models, untold)
