"""DistillSpec from end to end: what the recipe builds, what it measures, and that drafts improve."""

from __future__ import annotations

import pytest
import torch
from recipes import distillspec as recipe

from autodidact.engines.speculative import Speculative
from autodidact.law import Law
from autodidact.tasks.random_calculation import tiny_calculation


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def states(lm, ids):
    with torch.no_grad():
        return lm.model(ids, output_hidden_states=True)


def test_the_draft_is_the_first_layer_of_the_target(tiny):
    ids = torch.arange(5, 45)[None]
    draft, target = states(recipe.reshaped(layers=1), ids), states(tiny, ids)
    first = tiny.model.model.norm(target.hidden_states[1])
    assert torch.allclose(draft.hidden_states[-1], first, atol=1e-5)
    assert not torch.allclose(draft.logits, target.logits, atol=1.0)


def test_the_costly_target_is_larger_and_has_the_same_law(tiny):
    ids = torch.arange(5, 45)[None]
    costly = recipe.reshaped(width=700)
    assert costly.model.num_parameters() > 2 * tiny.model.num_parameters()
    assert torch.allclose(states(costly, ids).logits, states(tiny, ids).logits, atol=1e-3)


def test_as_many_proposals_stand_as_the_laws_overlap(tiny):
    """Over what was written, their number is within its sampling error of the sum of 1 - TV."""
    task, law, draft = tiny_calculation(train=10, test=60), Law(0.8), recipe.reshaped(layers=2)
    engine = Speculative(draft, 2)
    drawn = engine.draw(tiny, recipe.requests(tiny, task, task.test), law, 0).completions
    stands = recipe.chances(draft, task, task.test, drawn, law).double()
    assert len(stands) == engine.tally.judged > 500
    spread = float((stands * (1 - stands)).sum().sqrt())
    gap = engine.tally.accepted - float(stands.sum())
    assert abs(gap) < 4 * spread < 0.2 * float(stands.sum())
    cold = recipe.chances(draft, task, task.test, drawn, Law(0.5))
    assert not torch.allclose(cold.double(), stands, atol=0.01), "another temperature, another law"


@pytest.mark.slow
@pytest.mark.long
def test_every_divergence_makes_the_draft_more_acceptable(threads, capsys):
    assert recipe.main(["--quick"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    names = ("start", "imitation", *recipe.DIVERGENCES)
    found = {words[0]: float(words[1]) for words in lines if words and words[0] in names}
    assert tuple(found) == names
    assert all(found[kind] > found["start"] for kind in recipe.DIVERGENCES)
    for words in lines:
        if words and words[0] in names:
            assert float(words[6]) < 4, "z"
