"""Forced continuations: which ids stand where, and log-probabilities that obey the chain rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.credits.continued import continued, tail_logp
from autodidact.law import Law
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.rollouts.splice import Splice
from toys import padded, perturb, renumbered, toy_task

TAILS = ([7, 8], [9], [10, 11, 12])


@pytest.fixture
def drawn(qwen):
    """(models, three rows of two groups with at least two tokens each)."""
    task, models = toy_task(4), Models(qwen)
    batch = Sample(3, 6, Law(0.5))(task.train, models, task, 2)
    long = (batch.own.sum(1) >= 2).nonzero().flatten().tolist()
    chosen = [long[0], long[1], long[-1]]
    assert len(set(batch.group[chosen].tolist())) > 1
    return models, batch.select(chosen)


def after_prompt(batch, row):
    start = int(batch.own[row].int().argmax())
    return batch.ids[row, :start].tolist(), batch.ids[row, start:][batch.real[row, start:]].tolist()


@pytest.mark.parametrize("keep", [(0, 0, 0), (2, 1, 0), (1, 2, 2)])
def test_a_row_is_its_prompt_what_is_kept_and_the_tail(drawn, keep):
    _, batch = drawn
    made = continued(batch, keep, TAILS)
    for row, (count, tail) in enumerate(zip(keep, TAILS, strict=True)):
        prompt, written = after_prompt(batch, row)
        assert made.ids[row][made.real[row]].tolist() == prompt + written[:count] + tail
        asked = [False] * (len(prompt) + count) + [True] * len(tail)
        assert made.own[row][made.real[row]].tolist() == asked
    assert made.rows == batch.rows and torch.equal(made.group, batch.group)
    assert made.temperature == batch.temperature and not made.streams


def test_all_of_a_row_may_be_kept_and_no_more(drawn):
    _, batch = drawn
    sizes = [len(after_prompt(batch, row)[1]) for row in range(3)]
    made = continued(batch, sizes, TAILS)
    assert made.real.sum(1).tolist() == [
        int(batch.real[row].sum()) + len(tail) for row, tail in enumerate(TAILS)
    ]
    with pytest.raises(ValueError, match="row 1 has"):
        continued(batch, [0, sizes[1] + 1, 0], TAILS)
    with pytest.raises(ValueError, match="row 0 has"):
        continued(batch, [-1, 0, 0], TAILS)
    with pytest.raises(ValueError, match="a tail of 0"):
        continued(batch, [0, 0, 0], ([7], [8], []))


def test_given_tokens_between_own_ones_are_kept_too(qwen):
    task, models = toy_task(4), Models(qwen)
    batch = Splice(1, 3, "Wait", 3)(task.train, models, task, 5)
    row = int((batch.real & ~batch.own).sum(1).argmax())
    batch = batch.select([row])
    prompt, written = after_prompt(batch, 0)
    made = continued(batch, [len(written)], [[7]])
    assert made.ids[0].tolist() == prompt + written + [7]
    assert made.own.sum() == 1


def test_the_log_probability_is_that_of_the_whole_row_at_temperature_one(drawn):
    """Read off the model's own logits, token by token."""
    models, batch = drawn
    keep = [2, 1, 0]
    found = tail_logp(models, batch, keep, TAILS)
    for row, (count, tail) in enumerate(zip(keep, TAILS, strict=True)):
        prompt, written = after_prompt(batch, row)
        ids = torch.tensor([prompt + written[:count] + tail])
        with torch.no_grad():
            laws = models.policy.model(ids).logits[0].log_softmax(-1)
        places = range(len(prompt) + count, ids.shape[1])
        expected = sum(float(laws[place - 1, ids[0, place]]) for place in places)
        assert float(found[row]) == pytest.approx(expected, rel=1e-9)
    warm = tail_logp(models, replace(batch, temperature=0.5), keep, TAILS)
    assert torch.equal(warm, found), "whatever the tokens were drawn at"


def test_tails_obey_the_chain_rule(drawn):
    """log p(tail) = log p(its beginning) + log p(the rest, given that beginning)."""
    models, batch = drawn
    keep = [2, 1, 0]
    begun = [tail[:1] for tail in TAILS]
    whole = tail_logp(models, batch, keep, [[*tail, 13] for tail in TAILS])
    first = tail_logp(models, batch, keep, begun)
    kept = continued(batch, keep, begun)
    # Its own tokens are the beginnings: one of them is kept.
    rest = tail_logp(models, kept, [1] * 3, [[*tail[1:], 13] for tail in TAILS])
    assert torch.allclose(whole, first + rest, rtol=1e-10)


def test_one_token_tails_are_a_law(drawn):
    models, batch = drawn
    words = models.policy.head().words
    one = batch.select([0] * words)
    found = tail_logp(models, one, [1] * words, [[word] for word in range(words)])
    assert float(found.exp().sum()) == pytest.approx(1, rel=1e-10)


def test_padding_order_and_group_numbers_do_not_matter(drawn):
    models, batch = drawn
    found = tail_logp(models, batch, [2, 1, 0], TAILS)
    for other in (padded(batch), renumbered(batch)):
        assert torch.allclose(tail_logp(models, other, [2, 1, 0], TAILS), found, rtol=1e-10)
    turned = tail_logp(models, batch.select([2, 0, 1]), [0, 2, 1], [TAILS[i] for i in (2, 0, 1)])
    assert torch.allclose(turned, found[[2, 0, 1]], rtol=1e-10)


def test_another_role_may_read_and_reading_has_its_price(drawn):
    models, batch = drawn
    assert models["initial"]
    before = tail_logp(models, batch, [1, 1, 1], TAILS)
    perturb(models.policy)
    spent = models.ledger.teacher_forward
    now = tail_logp(models, batch, [1, 1, 1], TAILS)
    assert models.ledger.teacher_forward > spent and not now.requires_grad
    assert (now - before).abs().max() > 1e-3
    kept = tail_logp(models, batch, [1, 1, 1], TAILS, role="initial")
    assert torch.allclose(kept, before, rtol=1e-10)
