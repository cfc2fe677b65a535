"""Likelihoods as readings of a batch: the same for all roles, in any order, padding and split."""

from __future__ import annotations

import pytest
import torch

from autodidact.losses.likelihood import Likelihood
from tabular import live, models_of, table, values, written
from toys import padded, perturb, random_masked

NOISY = ("elbo", "bernoulli", "complement", "block")
KINDS = ("one_step", *NOISY, "trace", "left")


@pytest.fixture
def qwen_rows(tokenizer):
    """A random transformer that reads both ways, and texts of it of different lengths."""
    lm = random_masked(tokenizer)
    random = torch.Generator().manual_seed(0)
    texts = torch.randint(1, 200, (5, 6), generator=random)
    orders = torch.rand((5, 6), generator=random).argsort(1) + 1
    own = torch.arange(6) < torch.tensor([6, 3, 5, 1, 4])[:, None]
    return lm, written(texts, orders, own, prompt=(7, 8, 9))


@pytest.mark.parametrize("kind", KINDS)
def test_the_ratio_to_itself_is_one_after_shuffles_paddings_and_splits(kind, qwen_rows):
    lm, batch = qwen_rows
    draws = 2 if kind in NOISY else 1
    reading = Likelihood(kind, draws=draws, prompt=0.3, block=2)
    models = models_of(lm, 5)
    models.pack = True
    noisy = reading.credit(batch, models)
    values_at_first = noisy.take("before")
    assert (values_at_first[batch.own] < 0).any()
    for piece in (noisy, *noisy.split(2), noisy.select([3, 0, 4]), padded(noisy)):
        logp, before = reading.laws(
            models.scores(reading.views(piece, models, "policy", "policy"), piece), piece
        )
        assert logp.requires_grad and not before.requires_grad
        ratio = (logp - before)[piece.own].exp()
        assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-9, rtol=0)
    order = [4, 2, 0, 3, 1]
    for other in (
        reading.credit(batch.select(order), models),
        reading.credit(padded(batch), models),
    ):
        places = order if other.ids.shape == batch.ids.shape else range(5)
        again = other.take("before")[:, : batch.ids.shape[1]]
        assert torch.allclose(again, values_at_first[list(places)], atol=1e-5)


def test_all_roles_see_the_same_canvases(qwen_rows):
    lm, batch = qwen_rows
    reading, models = Likelihood("complement", draws=2, prompt=0.3), models_of(lm)
    _ = models["initial"]
    noisy = reading.credit(batch, models)
    perturb(lm)
    names = ("policy", "initial")
    read = {name: reading.views(noisy, models, name, name) for name in names}
    for number, (one, other) in enumerate(zip(*map(dict.items, read.values()), strict=True)):
        assert (one[0], other[0]) == (("policy", "initial"), ("policy:1", "initial:1"))[number]
        assert torch.equal(one[1].ids, other[1].ids) and torch.equal(one[1].at, other[1].at)
        assert one[1].grad and not other[1].grad
    old = reading.logp(models.scores(read["initial"], noisy), noisy, "initial")
    assert torch.allclose(old, noisy.take("before"), atol=1e-6)
    new = reading.logp(models.scores(read["policy"], noisy), noisy, "policy")
    assert not torch.allclose(new, old, atol=1e-3)


def test_prompts_are_hidden_by_chance_anew_for_every_update(qwen_rows):
    lm, batch = qwen_rows
    prompt = batch.real & (batch.take("canvas") != 1)
    for chance in (0.0, 0.4):
        reading = Likelihood("one_step", prompt=chance)
        found = [reading.credit(batch, models_of(lm, k)).take("hidden") for k in range(40)]
        shares = torch.stack([each[..., 0][prompt] for each in found]).double()
        assert float(shares.mean()) == pytest.approx(chance, abs=0.08)
        assert all(torch.equal(found[0], other) for other in found[1:]) == (chance == 0)
        assert all((each[..., 0] == 1)[batch.take("canvas") == 1].all() for each in found)


def test_complements_ask_each_token_once_and_hide_what_they_ask(qwen_rows):
    lm, batch = qwen_rows
    reading, models = Likelihood("complement"), models_of(lm)
    (view,) = reading.views(reading.credit(batch, models), models, "policy", "policy").values()
    first, second = view.ids.split(len(batch))
    canvas = batch.take("canvas") == 1
    assert ((first == lm.mask) ^ (second == lm.mask))[canvas].all()
    assert torch.equal(view.asked, batch.own)
    assert (view.ids.flatten()[view.at[view.asked]] == lm.mask).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind, tokenizer):
    lm = table(tokenizer, 3, seed=1)
    models, text = models_of(lm), torch.tensor([[2, 0, 1]])
    batch = written(text, torch.tensor([[2, 3, 1]]))
    reading = Likelihood(kind, draws=2 if kind in NOISY else 1, block=2)
    noisy = reading.credit(batch, models)
    live(reading, noisy, models).sum().backward()
    weights = lm.model.table
    found = weights.grad.flatten()
    places = found.abs().argsort(descending=True)[:4]
    assert found[places].abs().min() > 1e-3
    for place in places.tolist():
        both = []
        for sign in (1, -1):
            with torch.no_grad():
                weights.view(-1)[place] += sign * 1e-5
                both.append(float(values(reading, noisy, models)))
                weights.view(-1)[place] -= sign * 1e-5
        assert (both[0] - both[1]) / 2e-5 == pytest.approx(float(found[place]), abs=1e-7)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "elbow"}, "elbo"),
        ({"draws": 0}, "draws=0"),
        ({"kind": "trace", "draws": 2}, "no noise to draw"),
        ({"prompt": 1.0}, "from 0 to below 1"),
        ({"between": (0.3, 0.8)}, "1/2 in their middle"),
        ({"between": (0.8, 0.2)}, "the first below the second"),
    ],
)
def test_wrong_options_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Likelihood(**options)
