"""What stands in for log p of a masked model, against tables whose orders are enumerated."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from recipes.studies.tabular import bound, everything, exact

from autodidact.losses.likelihood import LEAST, Likelihood
from tabular import PROMPT, models_of, table, texts_of, values, written

NOISY = ("elbo", "bernoulli", "complement", "block")
WHOLE = (0.0, 1.0)


def noised(reading, text, models, each, whole) -> torch.Tensor:
    """Values of one text with given uniform numbers: [K, n] for its tokens, [K] for the row."""
    batch = written(text.expand(len(each), -1))
    numbers = torch.nn.functional.pad(each, (len(PROMPT), 0), value=0.5)
    parts = reading._canvas(batch, numbers, whole)
    names = ("hidden", "asked", "share")
    batch = batch.put(**{n: p.double()[..., None] for n, p in zip(names, parts, strict=True)})
    return values(reading, batch, models)


def expectation(reading, text, models, cells: int = 1) -> float:
    """The exact mean of the value over the noise of a reading."""
    size = len(text)
    if reading.kind in ("elbo", "block"):
        ranks = torch.tensor(list(permutations(range(size)))).double() / size
        whole = (torch.arange(cells).double() + 0.5) / cells
        found = noised(
            reading, text, models, ranks.repeat(cells, 1), whole.repeat_interleave(len(ranks))
        )
        return float(found.mean())
    # The value is a polynomial of t of degree n, so that few nodes integrate it exactly.
    nodes, weights = np.polynomial.legendre.leggauss(size + 2)
    low, high = reading.between if reading.kind == "complement" else (LEAST, 1.0)
    total = 0.0
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        t = low + (high - low) * node
        hidden = torch.tensor(list(product((True, False), repeat=size)))
        each = torch.where(hidden, t / 2, (1 + t) / 2).double()
        chance = t ** hidden.sum(1).double() * (1 - t) ** (~hidden).sum(1).double()
        whole = torch.full((len(hidden),), float(node), dtype=torch.double)
        total += weight * float((chance * noised(reading, text, models, each, whole)).sum())
    return total


@pytest.fixture
def known(tokenizer):
    """A table of four places, its roles, and log p of one text in every state of its canvas."""
    lm = table(tokenizer, 4, seed=3)
    text = torch.tensor([2, 0, 1, 1])
    return lm, models_of(lm), text, everything(lm, PROMPT, text[None])


def by_order(logp: torch.Tensor, order) -> float:
    """Log of the chance that a text is written in an order, place by place."""
    hidden, total = 2 ** len(order) - 1, 0.0
    for place in order:
        total += float(logp[0, hidden, place])
        hidden &= ~(1 << place)
    return total


def test_the_enumeration_by_subsets_is_that_of_all_orders(known):
    *_, logp = known
    orders = torch.tensor([by_order(logp, o) for o in permutations(range(4))], dtype=torch.double)
    assert float(exact(logp)) == pytest.approx(float(orders.exp().mean().log()), abs=1e-12)
    assert float(bound(logp)) == pytest.approx(float(orders.mean()), abs=1e-12)


def test_the_exact_chances_of_all_texts_sum_to_one(tokenizer):
    logp = everything(table(tokenizer, 4, seed=3), PROMPT, texts_of(4))
    assert float(exact(logp).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert (bound(logp) < exact(logp)).all()


def test_the_bound_is_the_same_by_random_orders_exact_counts_and_the_integral(known):
    _, models, text, logp = known
    truth = float(bound(logp))
    counts = expectation(Likelihood("elbo"), text, models, cells=4)
    pairs = expectation(Likelihood("complement", between=WHOLE), text, models)
    integral = expectation(Likelihood("bernoulli"), text, models)
    assert counts == pytest.approx(truth, abs=1e-12)
    assert pairs == pytest.approx(truth, abs=1e-12)
    # Its t begins at LEAST, which moves the weights of canvases by about as much.
    assert integral == pytest.approx(truth, abs=20 * LEAST)
    assert integral != pytest.approx(truth, abs=1e-9)
    assert truth < float(exact(logp)) - 0.1


def test_complements_around_a_half_are_another_mean_over_canvases(known):
    """Tokens weigh one, and a state with m hidden E[t^(m-1) (1-t)^(n-m)] instead of the bound's."""
    _, models, text, logp = known
    nodes, weights = np.polynomial.legendre.leggauss(8)
    t = 0.5 + 0.3 * nodes
    expected = 0.0
    for hidden in range(1, 16):
        places = [i for i in range(4) if hidden >> i & 1]
        chance = (weights / 2 * t ** (len(places) - 1) * (1 - t) ** (4 - len(places))).sum()
        expected += chance * float(logp[0, hidden, places].sum())
    found = expectation(Likelihood("complement"), text, models)
    assert found == pytest.approx(expected, abs=1e-12)
    assert abs(found - float(bound(logp))) > 1e-3


def test_block_by_block_is_the_bound_of_such_orders_over_the_number_of_blocks(known):
    _, models, text, logp = known
    orders = [a + b for a in permutations((0, 1)) for b in permutations((2, 3))]
    expected = np.mean([by_order(logp, order) for order in orders])
    assert expectation(Likelihood("block", block=2), text, models, cells=4) == pytest.approx(
        expected / 2, abs=1e-12
    )
    whole = expectation(Likelihood("block", block=4), text, models, cells=4)
    assert whole == pytest.approx(float(bound(logp)), abs=1e-12)


@pytest.mark.parametrize("kind", NOISY)
def test_noise_as_it_is_drawn_has_the_exact_mean(kind, tokenizer):
    """Within four standard errors of 486 draws, those of six updates for every text."""
    lm, texts = table(tokenizer, 4, seed=3), texts_of(4)
    reading = Likelihood(kind, block=2, between=WHOLE)
    truth = bound(everything(lm, PROMPT, texts))
    if kind == "block":
        few = [expectation(reading, text, models_of(lm), cells=4) for text in texts[::9]]
        texts, truth = texts[::9], torch.tensor(few).double()
    gaps = []
    for update in range(6 * 81 // len(texts)):
        models, batch = models_of(lm, update), written(texts)
        gaps.append(values(reading, reading.credit(batch, models), models) - truth)
    gap = torch.cat(gaps)
    assert len(gap) == 486
    assert abs(gap.mean()) < 4 * gap.std() / len(gap) ** 0.5
    assert gap.std() > 0.1


def test_more_draws_vary_less_and_draw_each_size_in_turn(tokenizer):
    lm, batch = table(tokenizer, 4, seed=3), written(texts_of(4))
    truth = bound(everything(lm, PROMPT, texts_of(4)))
    spread = {}
    for draws in (1, 4):
        reading, models = Likelihood("elbo", draws=draws), models_of(lm)
        noisy = reading.credit(batch, models)
        spread[draws] = float((values(reading, noisy, models) - truth).std())
        if draws == 4:
            sizes = noisy.take("hidden").sum(1)
            assert sizes.tolist() == [[1, 2, 3, 4]] * 81
    assert spread[4] < 0.6 * spread[1]


def test_one_step_is_a_product_model(tokenizer):
    lm = table(tokenizer, 4, seed=3)
    batch, models = written(texts_of(4)), models_of(lm)
    reading = Likelihood("one_step")
    found = values(reading, reading.credit(batch, models), models)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-12)
    alone = everything(lm, PROMPT, texts_of(4))[:, -1].sum(1)
    assert torch.allclose(found, alone, atol=1e-12)
    assert not torch.allclose(found, exact(everything(lm, PROMPT, texts_of(4))), atol=0.1)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0)])
def test_a_trace_is_the_chain_rule_of_its_order(known, order):
    _, models, text, logp = known
    steps = torch.tensor(order).argsort() + 1
    batch = written(text[None], steps[None])
    trace = float(values(Likelihood("trace"), batch, models))
    assert trace == pytest.approx(by_order(logp, order), abs=1e-12)
    # Whatever the order was, "left" reads it as if it had been from left to right.
    left = float(values(Likelihood("left"), batch, models))
    assert left == pytest.approx(by_order(logp, (0, 1, 2, 3)), abs=1e-12)
    # One step for all is the product model, two of two are in between.
    once = values(Likelihood("trace", shrink=4), batch, models)
    assert float(once) == pytest.approx(float(logp[0, 15].sum()), abs=1e-12)
    twice = values(Likelihood("trace", shrink=2), batch, models)
    later = 15 & ~(1 << order[0] | 1 << order[1])
    expected = logp[0, 15, list(order[:2])].sum() + logp[0, later, list(order[2:])].sum()
    assert float(twice) == pytest.approx(float(expected), abs=1e-12)


def test_chances_of_left_sum_to_one(tokenizer):
    models, batch = models_of(table(tokenizer, 4, seed=3)), written(texts_of(4))
    assert float(values(Likelihood("left"), batch, models).exp().sum()) == pytest.approx(1)


def test_given_tokens_are_read_and_not_scored(known):
    _, models, text, logp = known
    batch = written(text[None], torch.tensor([[2, 0, 1, 0]]))
    expected = {
        "one_step": logp[0, 5, [0, 2]].sum(),
        "trace": logp[0, 5, 2] + logp[0, 1, 0],
        "left": logp[0, 5, 0] + logp[0, 4, 2],
    }
    for kind, value in expected.items():
        reading = Likelihood(kind)
        found = values(reading, reading.credit(batch, models), models)
        assert float(found) == pytest.approx(float(value), abs=1e-12), kind
    sizes = [
        Likelihood("elbo").credit(batch, models_of(models.policy, k)).take("hidden")[0, :, 0]
        for k in range(20)
    ]
    hidden = torch.stack(sizes)
    assert set(hidden.sum(1).tolist()) == {1, 2} and not hidden[:, [0, 2, 4]].any()


def test_tokens_after_the_end_are_hidden_and_not_scored(known):
    _, models, text, logp = known
    own = torch.tensor([[True, True, False, False]])
    batch = written(text[None], own=own)
    reading = Likelihood("one_step")
    found = float(values(reading, reading.credit(batch, models), models))
    assert found == pytest.approx(float(logp[0, 15, :2].sum()), abs=1e-12)
    left = float(values(Likelihood("left"), batch, models))
    assert left == pytest.approx(float(logp[0, 15, 0] + logp[0, 14, 1]), abs=1e-12)


def test_without_states_everything_that_weighs_one_agrees(tokenizer):
    lm = table(tokenizer, 4, seed=5, free=True)
    models, text = models_of(lm), torch.tensor([2, 0, 1, 1])
    truth = float(exact(everything(lm, PROMPT, text[None])))
    batch = written(text[None], torch.tensor([[3, 1, 4, 2]]))
    for kind in ("one_step", "trace", "left"):
        reading = Likelihood(kind)
        found = float(values(reading, reading.credit(batch, models), models))
        assert found == pytest.approx(truth, abs=1e-12), kind
    for kind in ("elbo", "bernoulli", "complement"):
        assert expectation(Likelihood(kind), text, models, cells=4) == pytest.approx(truth), kind
    block = Likelihood("block", block=2)
    assert expectation(block, text, models, cells=4) == pytest.approx(truth / 2)
