"""What tokens of a group say about one another: against sums by hand and plain autograd."""

from __future__ import annotations

import math

import pytest
import torch

from autodidact import groupwise
from autodidact.groupwise import disagreement, influence
from autodidact.head import Head
from autodidact.scores import Scores
from toys import about, laws, random_logits, rows_of

ASKED = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 0, 0]], dtype=torch.bool)
N, D, V = int(ASKED.sum()), 5, 7
GROUP = torch.tensor([4, 9, 4, 9])
STEP = random_logits(4, 4, seed=5).detach() * ASKED
STEP[1] = 0.0
TARGETS = torch.arange(N) * 3 % V


def asked_about(softcap: float | None) -> Scores:
    head = Head(random_logits(V, D, seed=1), random_logits(V, seed=2).detach(), 0.7, softcap)
    return Scores(random_logits(N, D), head, ASKED, TARGETS, 1.3)


@pytest.fixture(params=[None, 2.0], ids=["linear", "capped"])
def scores(request):
    return asked_about(request.param)


def log_probs(scores: Scores) -> torch.Tensor:
    logits = (scores.hidden.detach() @ scores.head.weight.T + scores.head.bias) * scores.head.scale
    if scores.head.softcap is not None:
        logits = scores.head.softcap * (logits / scores.head.softcap).tanh()
    return (logits / scores.temperature).log_softmax(-1)


def slopes(scores: Scores) -> torch.Tensor:
    """d log p(y_t) / dW of every token, by autograd: [N, V, D]."""
    chosen = log_probs(scores)[range(N), TARGETS]
    return torch.stack(
        [torch.autograd.grad(each, scores.head.weight, retain_graph=True)[0] for each in chosen]
    )


def test_influence_is_the_product_of_gradients_in_the_head(scores):
    """<d log p_t / dW, sum_s step_s d log p_s / dW>, exactly, scale, cap and temperature included."""
    each = slopes(scores)
    number = GROUP[:, None].expand_as(ASKED)[ASKED]
    expected = torch.zeros(N, dtype=torch.float64)
    for group in (4, 9):
        here = number == group
        whole = torch.einsum("t,tvd->vd", STEP[ASKED][here], each[here])
        expected[here] = torch.einsum("tvd,vd->t", each[here], whole)
    found = influence(scores, STEP, GROUP)
    assert torch.allclose(found[ASKED], expected, rtol=1e-10, atol=1e-12)
    assert expected.abs().min() > 1e-6 and not found[~ASKED].any()
    assert not found.requires_grad


def test_influence_is_the_double_sum_over_pairs():
    """sum_s step_s <g_t, g_s> <h_t, h_s>, g = onehot - p, here times scale / temperature."""
    scores = asked_about(None)
    p, hidden = log_probs(scores).exp().detach(), scores.hidden.detach()
    factor = scores.head.scale / scores.temperature
    g = factor * (torch.nn.functional.one_hot(TARGETS, V) - p)
    pairs = (g @ g.T) * (hidden @ hidden.T)
    number = GROUP[:, None].expand_as(ASKED)[ASKED]
    pairs = pairs * (number[:, None] == number)
    found = influence(scores, STEP, GROUP)[ASKED]
    assert torch.allclose(found, pairs @ STEP[ASKED], rtol=1e-10, atol=1e-12)


def test_influence_is_what_a_small_step_of_the_head_does(scores):
    step = torch.where(torch.tensor([True, False, True, False])[:, None], STEP, 0.0)
    found = influence(scores, step, GROUP)[ASKED]
    whole = torch.einsum("t,tvd->vd", step[ASKED], slopes(scores))
    size, moved = 1e-5, []
    for sign in (1, -1):
        head = Head(scores.head.weight.detach() + sign * size * whole, scores.head.bias,
                    scores.head.scale, scores.head.softcap)  # fmt: skip
        moved.append(laws_of(scores, head)[range(N), TARGETS])
    here = (GROUP == 4)[:, None].expand_as(ASKED)[ASKED]
    change = (moved[0] - moved[1]) / (2 * size)
    assert torch.allclose(found[here], change[here].detach(), rtol=1e-6, atol=1e-8)
    assert not found[~here].any(), "a group without steps is not moved"


def laws_of(scores: Scores, head: Head) -> torch.Tensor:
    return log_probs(Scores(scores.hidden, head, ASKED, TARGETS, scores.temperature))


def test_influence_in_chunks_and_over_words_of_the_group(scores, monkeypatch):
    whole = influence(scores, STEP, GROUP)
    monkeypatch.setattr(groupwise, "sizes", lambda count, head: (2, 1))
    assert torch.allclose(influence(scores, STEP, GROUP), whole, rtol=1e-12)
    words = torch.arange(V)
    every = Scores(
        torch.zeros(V, D).double(), scores.head, torch.ones(1, V).bool(), words, 1.3
    )  # a row that holds all words, and moves nobody
    both = Scores(
        torch.cat([scores.hidden, every.hidden]), scores.head,
        torch.cat([torch.nn.functional.pad(ASKED, (0, V - 4)), every.asked]),
        torch.cat([TARGETS, words]), 1.3,
    )  # fmt: skip
    steps = torch.nn.functional.pad(STEP, (0, V - 4, 0, 1))
    seen = influence(both, steps, torch.tensor([4, 4, 4, 4, 4]), "seen")
    full = influence(both, steps, torch.tensor([4, 4, 4, 4, 4]))
    assert torch.allclose(seen, full, rtol=1e-12)
    assert not torch.allclose(influence(scores, STEP, GROUP, "seen"), whole, rtol=1e-3)


def test_nonsense_is_refused(scores):
    with pytest.raises(ValueError, match="did you mean 'seen'"):
        influence(scores, STEP, GROUP, "sen")
    with pytest.raises(ValueError, match="did you mean 'released'"):
        disagreement(scores, GROUP, "release")


# ------------------------------------------------------------------ disagreement


def entropy(p: torch.Tensor) -> torch.Tensor:
    return -(p * p.log()).sum(-1)


def test_the_divergence_of_a_group_by_hand(monkeypatch):
    """H(mean p) - mean H(p) over the rows that have a token at the place; nothing for one row."""
    lengths = [3, 1, 2]
    batch = rows_of(lengths)
    logits = random_logits(6, 4, size=2.0).detach()
    p = logits.softmax(-1)
    at = [[0, 3, 4], [1, 5], [2]]
    expected = [float(entropy(p[i].mean(0)) - entropy(p[i]).mean()) for i in at]
    for size in (64, 1):
        monkeypatch.setattr(groupwise, "sizes", lambda count, head, size=size: (size, 1))
        found = disagreement(about(batch, logits), batch.group)
        for k, value in enumerate(expected):
            there = batch.own & (batch.own.cumsum(1) == k + 1)
            assert found[there].tolist() == pytest.approx([value] * int(there.sum()), abs=1e-12)
    assert expected[0] > 0.1 and expected[2] == 0 and not found[~batch.own].any()


def test_laws_without_a_common_word_are_log_g_apart():
    batch = rows_of([1, 1, 1])
    found = disagreement(about(batch, 80.0 * torch.eye(3).double()), batch.group)
    assert found[batch.own].tolist() == pytest.approx([math.log(3)] * 3, rel=1e-12)


@pytest.mark.parametrize("kind", ["divergence", "released"])
def test_equal_laws_agree_and_the_order_of_rows_does_not_matter(kind):
    same = random_logits(1, 4).detach().expand(4, 4).float()
    batch = rows_of([1, 1, 1, 1])
    assert not disagreement(about(batch, same), batch.group, kind).any()
    batch = rows_of([3, 1, 2])
    scores = about(batch, random_logits(6, 4).detach())
    found = disagreement(scores, batch.group, kind)
    order = torch.tensor([4, 5, 0, 1, 2, 3])
    moved = batch.select([2, 0, 1])
    other = disagreement(about(moved, scores.hidden[order]), moved.group, kind)
    assert torch.allclose(other, found[[2, 0, 1]], rtol=1e-12, atol=1e-14)


def test_groups_do_not_see_each_other():
    batch = rows_of([2, 2, 2, 2])
    logits = random_logits(8, 4).detach()
    group = torch.tensor([7, 3, 7, 3])
    found = disagreement(about(batch, logits), group)
    for number in (7, 3):
        rows = (group == number).nonzero().flatten().tolist()
        part = batch.select(rows)
        tokens = torch.cat([torch.arange(2 * row, 2 * row + 2) for row in rows])
        alone = disagreement(about(part, logits[tokens]), part.group)
        assert torch.allclose(alone, found[rows], rtol=1e-12)


def test_the_released_disagreement_by_hand():
    """mean_i sum_v (e^d - d - 1), d = mean log p - log p_i cut at 11; ended rows are uniform."""
    batch = rows_of([2, 1])
    logits = torch.tensor([[0.0, 30.0, 0.0], [0.3, 0.1, -2.0], [1.0, 0.0, 0.5]]).double()
    logp = logits.log_softmax(-1)
    uniform = torch.full((3,), -math.log(3)).double()
    expected = []
    for rows in (logp[[0, 2]], torch.stack([logp[1], uniform])):
        d = (rows.mean(0) - rows).clamp(-11, 11)
        expected.append(float((d.exp() - d - 1).sum(-1).mean()))
    found = disagreement(about(batch, logits), batch.group, "released")
    assert found[batch.own].tolist() == pytest.approx([expected[0], expected[1], expected[0]])
    assert (logp[0] - logp[2]).abs().max() / 2 > 11, "something was cut"


def test_a_law_of_its_own_is_asked_at_its_temperature():
    one, two = laws(random_logits(2, 3).detach(), [0, 1]), None
    asked = torch.ones(2, 1, dtype=torch.bool)
    group = torch.zeros(2, dtype=torch.long)
    one = laws(one.hidden, [0, 1], asked, temperature=2.0)
    two = laws(one.hidden / 2, [0, 1], asked)
    assert torch.allclose(disagreement(one, group), disagreement(two, group), rtol=1e-12)
