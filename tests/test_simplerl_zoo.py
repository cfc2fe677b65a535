"""The recipe of SimpleRL-Zoo: its settings, its mask, and where there is something to learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from recipes import simplerl_zoo as recipe

from autodidact.methods.grpo import grpo
from autodidact.model import load
from autodidact.models import Models
from autodidact.train import Training
from toys import about, random_logits, rows_of


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_settings_are_those_of_the_paper():
    method, run = recipe.real()
    expected = grpo(8, 8192, kl=1e-4, kl_kind="k3", eps=1e-6, entropy=1e-3, mask_truncated=False)
    assert (method.name, method.arguments) == ("grpo", expected.arguments)
    assert (run.rows, run.lr, run.steps) == (8192, 5e-7, 100)
    assert recipe.real(large=True)[0].arguments["kl"] == 1e-3


def test_answers_that_ran_out_of_length_have_no_gradient_where_they_are_masked():
    """Neither by their advantage nor by the penalty and the bonus; without the mask they have."""
    batch = rows_of([3, 2, 4], [1.0, 0.0, 0.0]).put(finished=torch.tensor([0.0, 1.0, 0.0]))
    logits = random_logits(9, 3)
    scores = {
        "policy": about(batch, logits),
        "reference": about(batch, random_logits(9, 3, seed=1)),
    }
    batch = batch.put(raw=scores["policy"].logp.detach())
    for masked in (True, False):
        method, _ = recipe.real(remove_clip=masked)
        credited = method.credit(batch, None)
        loss = (method.loss(scores, credited) * method.weigh(credited)).sum()
        found = torch.autograd.grad(loss, logits)[0].abs().sum(1)
        assert (found > 0).tolist() == [not masked] * 3 + [True] * 2 + [not masked] * 4


def test_the_bins_are_easy_medium_and_hard(tiny):
    """By the share of right answers, and by how many groups there are with both kinds."""
    found = {}
    for name, task in recipe.bins().items():
        assert not {p.question for p in task.train} & {p.question for p in task.test}
        share = recipe.rates(Models(tiny), task, problems=20)
        found[name] = (float(share.mean()), float(((share > 0) & (share < 1)).float().mean()))
    assert found["easy"][0] > 0.8 > 0.6 > found["medium"][0] > 0.2
    assert found["hard"] == (0.0, 0.0) and found["medium"][1] > 0.5


def test_where_nothing_is_ever_right_nothing_is_learned():
    method, run = recipe.tiny()
    for name, moves in (("hard", False), ("medium", True)):
        models = Models(load("tiny"))
        before = {k: v.clone() for k, v in models.policy.model.state_dict().items()}
        training = Training(method, models, recipe.bins()[name], replace(run, rows=16))
        _, line = training.advance()
        after = models.policy.model.state_dict()
        assert (line["grad_norm"] > 0) is moves
        assert all(torch.equal(before[k], after[k]) for k in before) is not moves


@pytest.mark.slow
@pytest.mark.long
def test_only_bins_with_right_and_wrong_answers_teach(threads, capsys):
    assert recipe.main([]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    found = {words[0]: [float(x) for x in words[1:]] for words in map(str.split, lines)}
    gain = {name: numbers[3] - numbers[2] for name, numbers in found.items()}
    assert gain["medium"] > 8 > gain["easy"] and gain["hard"] == 0
