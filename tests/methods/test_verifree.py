"""verifree: the gradient of the rate of success by enumeration, and where rows are cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from autodidact.engine import Drawn
from autodidact.methods.verifree import verifree
from autodidact.models import Models
from autodidact.rollouts.reference import Reference
from autodidact.store import Completion
from autodidact.view import plain
from toys import about, random_logits, rows_of, toy_task

WANTED = 1
"""The reference answer among three words."""


def toy_law():
    """Logits of z [3] and of y given z [3, 3]."""
    return random_logits(3), random_logits(3, 3, seed=1)


def batch_of_pairs(zs, rewards):
    """Rows of two own tokens, z then the reference, in one group."""
    batch = rows_of([2] * len(zs), rewards, reference=[0.0, 1.0] * len(zs))
    ids = batch.ids.clone()
    ids[:, 1], ids[:, 2] = torch.tensor(zs), WANTED
    return replace(batch, ids=ids)


def gradient(method, zs, law):
    first, second = law
    answers = second.log_softmax(-1)[:, WANTED]
    batch = method.credit(batch_of_pairs(zs, answers[list(zs)].exp().detach().tolist()), None)
    batch = batch.put(raw=torch.zeros_like(batch.take("advantage")))
    logits = torch.stack([each for z in zs for each in (first, second[z])])
    loss = (method.loss({"policy": about(batch, logits)}, batch) * method.weigh(batch)).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, law)])


def success(law):
    """E_z p(y* | z), exactly."""
    first, second = law
    return (first.softmax(-1) * second.softmax(-1)[:, WANTED]).sum()


@pytest.mark.parametrize("n", [2, 3])
def test_the_expected_gradient_is_that_of_the_rate_of_success(n):
    """By enumeration of every group of reasonings."""
    law, method = toy_law(), verifree(n=n)
    chance = law[0].softmax(-1).detach()
    found = sum(
        chance[list(zs)].prod() * gradient(method, zs, law) for zs in product(range(3), repeat=n)
    )
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-success(law), law)])
    assert torch.allclose(found, exact, rtol=1e-6, atol=1e-9)  # weights are float32


@pytest.mark.parametrize("answer", ["one", "advantage"])
def test_other_weights_of_the_answer_have_another_gradient(answer):
    law, method = toy_law(), verifree(n=2, answer=answer)
    chance = law[0].softmax(-1).detach()
    found = sum(
        chance[list(zs)].prod() * gradient(method, zs, law) for zs in product(range(3), repeat=2)
    )
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-success(law), law)])
    assert torch.allclose(found[:3], exact[:3], rtol=1e-6, atol=1e-9), "the reasoning's part"
    assert float((found[3:] - exact[3:]).abs().max()) > 0.01


def test_the_mean_over_drawn_answers_is_its_reward_and_it_varies_less():
    """Rao-Blackwell: 1[y = y*] (grad log p(z) + grad log p(y|z)), averaged over y, is its sample."""
    first, second = toy_law()
    law = (first, second)
    chance, given = first.softmax(-1).detach(), second.softmax(-1).detach()
    ours, theirs, weights = [], [], []
    for z, y in product(range(3), range(3)):
        reached = first.log_softmax(-1)[z] + second.log_softmax(-1)[z, WANTED]
        score = torch.cat([g.flatten() for g in torch.autograd.grad(reached, law)])
        ours.append(given[z, WANTED] * score)
        theirs.append(float(y == WANTED) * score)
        weights.append(chance[z] * given[z, y])
    ours, theirs, weights = torch.stack(ours), torch.stack(theirs), torch.stack(weights)[:, None]
    mean = (weights * ours).sum(0)
    assert torch.allclose(mean, (weights * theirs).sum(0), atol=1e-12)
    spread = [(weights * (each - mean) ** 2).sum(0) for each in (ours, theirs)]
    assert (spread[0] <= spread[1] + 1e-15).all() and spread[0].sum() < 0.9 * spread[1].sum()


def test_advantages_leave_the_row_out_and_only_the_answer_gets_the_reward():
    rewards = [0.5, 0.0, 0.25]
    batch = rows_of([2, 2, 1], rewards, reference=[0.0, 1.0, 0.0, 1.0, 0.0])
    found = verifree(n=3).credit(batch, None).take("advantage")
    others = [(sum(rewards) - r) / 2 for r in rewards]
    for row, (reward, mean) in enumerate(zip(rewards, others, strict=True)):
        assert float(found[row, 1]) == pytest.approx(reward - mean, abs=1e-12)
    assert found[:, 2].tolist() == [0.5, 0.0, 0.0]
    weights = verifree(n=3).weigh(batch)
    assert torch.allclose(weights[batch.own], torch.tensor(1 / 3)), "sums of tokens, rows averaged"


# ------------------------------------------------------------------ where rows are cut


class Says:
    """An engine that writes the same texts for every prompt, in their order."""

    name = "says"

    def __init__(self, texts, finished=True):
        self.texts, self.finished = texts, finished

    def draw(self, lm, requests, law, seed):
        made = []
        for request in requests:
            ids = lm.encode(self.texts[request.sample])[: None if self.finished else -1]
            made.append(Completion(ids, [-1.0] * len(ids), [-1.0] * len(ids), self.finished))
        return Drawn(made, 0)


def rollout(lm, texts, finished=True, **options):
    task = toy_task(1)
    models = Models(lm, engine=Says(texts, finished))
    return Reference(len(texts), 60, **options)(task.train, models, task, 0), models


def written(lm, batch, row):
    """The text of a row after its prompt, z and answer in brackets of their own."""
    size = len(lm.render(batch.task.prompt(batch.rows[row])))
    kinds = zip(batch.ids[row], batch.own[row], batch.take("reference")[row], strict=True)
    z, bridge, answer = [], [], []
    for token, own, given in list(kinds)[size : int(batch.real[row].sum())]:
        (answer if given else z if own else bridge).append(int(token))
    return lm.decode(z), lm.decode(bridge), lm.decode(answer)


def test_the_reference_follows_the_first_marker(qwen):
    texts = ["so <answer>3</answer>", "<answer>1</answer> <answer", "no marker", "x<answer"]
    batch, models = rollout(qwen, texts)
    assert written(qwen, batch, 0) == ("so <answer", "> \\boxed{", "2")
    assert written(qwen, batch, 1) == ("<answer", "> \\boxed{", "2")
    assert written(qwen, batch, 2) == ("no marker", "", "")
    assert written(qwen, batch, 3) == ("x<answer", "> \\boxed{", "2")
    assert batch.take("reward")[2] == 0 and (batch.take("reward")[[0, 1, 3]] > 0).all()
    assert models.ledger.teacher_forward > 0, "reading the answers has its price"


def test_the_last_marker_of_terse_sums_needs_the_end_of_the_text(qwen):
    options = {"marker": "=", "bridge": "", "occurrence": "last"}
    texts = ["1+1=2\n2+0=2", "1+1"]
    batch, _ = rollout(qwen, texts, **options)
    assert written(qwen, batch, 0) == ("1+1=2\n2+0=", "", "2")
    assert written(qwen, batch, 1) == ("1+1", "", "")
    cut, _ = rollout(qwen, texts, finished=False, **options)
    assert not cut.take("reward").any() and not cut.take("reference").any()
    first, _ = rollout(qwen, texts, finished=False, marker="=", bridge="")
    assert written(qwen, first, 0) == ("1+1=", "", "2")


def test_the_reward_is_the_probability_of_the_answer_and_its_logp_that_of_the_policy(qwen):
    batch, models = rollout(qwen, ["a<answer>", "bb<answer>", "c"])
    with torch.no_grad():
        logp = models.score(plain(batch), batch).logp
    given = batch.take("reference") == 1
    expected = (logp * given).sum(1).exp()
    assert torch.allclose(batch.take("reward")[:2].double(), expected[:2], rtol=1e-6)
    for name in ("raw", "logp"):
        assert torch.allclose(batch.take(name)[given].double(), logp[given], rtol=1e-6)
    drawn = batch.own & ~given
    assert (batch.take("raw")[drawn] == -1).all()


def test_what_cannot_be_asked_for(qwen):
    with pytest.raises(ValueError, match="marker=''"):
        verifree(marker="")
    with pytest.raises(ValueError, match="did you mean 'last'"):
        verifree(occurrence="lst")
    with pytest.raises(ValueError, match="did you mean 'reward'"):
        verifree(answer="rewards")
    with pytest.raises(ValueError, match="n=1"):
        verifree(n=1)
    task = toy_task(1)
    unanswered = [replace(task.train[0], answer=None)]
    with pytest.raises(ValueError, match="has no answer"):
        Reference(1, 60)(unanswered, Models(qwen, engine=Says(["<answer"])), task, 0)
    with pytest.raises(ValueError, match="more than the context of 256"):
        Reference(1, 60, bridge="." * 300)(
            task.train, Models(qwen, engine=Says(["<answer"])), task, 0
        )
