"""IGPO: which groups get hints, where these stand, and which of their tokens are learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.credits.group import group_advantage
from autodidact.divergence import Divergence
from autodidact.engines.denoise import Denoise
from autodidact.grade import grade
from autodidact.learn import gradients
from autodidact.losses.hinted import Hinted
from autodidact.losses.likelihood import Likelihood
from autodidact.methods.igpo import igpo
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.inpaint import Hints, Inpaint
from autodidact.rollouts.sample import Sample
from autodidact.tasks.sudoku import sudoku
from toys import perturb, random_logits, random_masked, toy_task

SMALL = {"n": 4, "length": 8, "steps": None, "piece_low": 1, "piece_high": 2}


@pytest.fixture
def models(tokenizer):
    return Models(random_masked(tokenizer))


def hard(problems: int = 6) -> Task:
    """Right is a text of the right length with a digit of the question at its place."""

    def correct(problem, text):
        return text.startswith(problem.solution[:2])

    task = toy_task(problems)
    train = [Problem(p.question, p.question * 3, "=", p.meta) for p in task.train]
    return replace(task, train=train, correct=correct, reward=None)


def hinted(models, task=None, **options):
    rollout = igpo(**{**SMALL, "hint_low": 0.9, "hint_high": 1.0, **options}).rollout
    return rollout(task.train, models, task, 3)


def plain(models, task):
    return grade(Sample(4, 8, igpo(**SMALL).rollout.law, engine=Denoise())(
        task.train, models, task, 3), models)  # fmt: skip


def test_hints_are_whole_pieces_and_a_share_of_them():
    hints = Hints(0.5, 0.5, 3, 3)
    shown = hints.shown(12, 0, 7, 1)
    assert len(shown) == 6 and sorted(shown) == sorted({p for s in shown for p in
                                                        range(s // 3 * 3, s // 3 * 3 + 3)})  # fmt: skip
    assert Hints(0.0, 0.0).shown(40, 0, 7, 1) == []
    assert sorted(Hints(1.0, 1.0).shown(40, 0, 7, 1)) == list(range(40))
    some = [len(Hints(0.2, 0.6, 1, 1).shown(100, 0, 7, sample)) for sample in range(200)]
    assert 20 <= min(some) < 25 and 55 < max(some) <= 60
    sizes = {len(Hints(1.0, 1.0, 5, 10).shown(n, 0, 7, 1)) for n in (1, 7, 23)}
    assert sizes == {1, 7, 23}
    assert hints.shown(12, 0, 7, 1) != hints.shown(12, 0, 7, 2)


def test_failed_groups_get_right_completions_and_others_are_left_alone(models):
    task = hard()
    before, after = plain(models, task), hinted(models, task)
    assert float(before.take("correct").max()) == 0, "every group has failed"
    right = after.take("correct").view(-1, 4)
    count = right.sum(1)
    assert count.max() == 2, "at most half of a group is replaced"
    assert torch.equal(right, right.sort(1, descending=True).values), "the first ones are"
    kept = (right.flatten() == 0).nonzero().flatten().tolist()
    same, old = after.select(kept), before.select(kept)
    assert torch.equal(same.ids, old.ids) and torch.equal(same.own, old.own)
    lucky = replace(task, correct=lambda problem, text: sum(text.encode()) % 5 == 0)
    again = hinted(models, lucky)
    was = plain(models, lucky)
    won = was.take("correct").view(-1, 4).any(1).repeat_interleave(4)
    assert won.any() and torch.equal(again.ids[won], was.ids[won])
    assert not again.take("hint")[won].any()


def test_hints_are_own_tokens_of_the_first_step_and_of_the_solution(models):
    task = hard()
    batch = hinted(models, task)
    hint = batch.take("hint") == 1
    assert hint.any() and (batch.take("order")[hint] == 1).all()
    assert (batch.take("raw")[hint] == 0).all()
    for row in hint.any(1).nonzero().flatten().tolist():
        canvas = batch.take("canvas")[row] == 1
        solution = torch.tensor(models.policy.encode(batch.rows[row].solution)[:8])
        shown = hint[row][canvas]
        assert torch.equal(batch.ids[row][canvas][shown], solution[shown])
        ended = [
            i for i, w in enumerate(batch.ids[row][canvas].tolist()) if w in models.policy.ends
        ]
        last = ended[0] if ended else 8
        assert batch.own[row][canvas].tolist() == [i <= last for i in range(8)]


def test_the_answer_is_never_shown(models):
    task = hard()
    task = replace(task, train=[replace(p, solution=p.question + "=" * 3, answer="===")
                                for p in task.train])  # fmt: skip
    for row in hinted(models, task, hint_low=1.0).take("hint"):
        assert int(row.sum()) in (0, *{len(p.question) for p in task.train})


def test_without_hints_it_is_plain_sampling(models):
    task = hard()
    before, after = plain(models, task), hinted(models, task, hint_low=0.0, hint_high=0.0)
    assert torch.equal(before.ids, after.ids) and torch.equal(before.own, after.own)
    assert not after.take("hint").any()
    assert torch.equal(before.take("logp"), after.take("logp"))


def test_cells_of_a_grid_are_shown_where_they_were_empty(models):
    task = sudoku(8, "terse", "exact", train=3, test=1, canvas=True)
    rollout = Inpaint(2, 16, hints=Hints(0.5, 0.5, 1, 1), replaced=1.0)
    requests = rollout._hinted(task.train, [0, 1, 2], models, task, 3)
    assert len(requests) == 6
    for i, request in requests:
        key = models.policy.encode(task.train[i].solution)[:-1]
        given = task.canvas(task.train[i])
        shown = [w is not None and g is None for w, g in zip(request.canvas, given, strict=True)]
        assert sum(shown) == 4
        assert all(w is None or w == k for w, k in zip(request.canvas, key, strict=True))


def test_advantages_are_those_of_the_share_that_was_right(models):
    batch = group_advantage(hinted(models, hard()), "none")
    right = batch.take("correct").view(-1, 4)
    rho = right.mean(1, keepdim=True)
    expected = torch.where(right == 1, 1 - rho, -rho).flatten()
    assert torch.allclose(batch.take("advantage"), expected[:, None] * batch.own)


def test_the_gradient_is_rho_times_one_minus_rho_of_the_difference(models):
    """E grad = rho (1 - rho) (g_+ - g_-), g the mean gradient of the mean log-probability."""
    batch = hinted(models, hard(1))
    assert 0 < float(batch.take("correct").mean()) < 1
    found = gradients(igpo(**SMALL, kl=0.0, learned=1.0), models, batch).policy
    right = batch.take("correct") == 1
    rho = float(right.double().mean())
    reading = Likelihood("one_step")
    noisy = reading.credit(batch, models)
    weights = [w for w in models.policy.model.parameters() if w.requires_grad]

    def mean(rows):
        scores = models.scores(reading.views(noisy, models, "policy", "policy"), noisy)
        each = scores["policy"].logp.sum(1) / noisy.own.sum(1)
        grads = torch.autograd.grad(each[rows].mean(), weights, allow_unused=True)
        return [g for g in grads if g is not None]

    for got, up, down in zip(found, mean(right), mean(~right), strict=True):
        # Rewards, and with them advantages and weights, are float32.
        assert torch.allclose(got, -rho * (1 - rho) * (up - down), atol=1e-6)


def test_a_mixture_with_a_hinted_answer_is_near_the_policy():
    """KL(pi_a || pi) <= -a log pi(o) for pi_a = a 1_o + (1 - a) pi."""
    logp = random_logits(50, 6, size=2.0).detach().log_softmax(-1)
    for share in (0.1, 0.5, 0.9):
        mixed = (1 - share) * logp.exp()
        mixed[:, 0] += share
        value = Divergence("forward").measure(logp, mixed.log())[0]
        assert (value <= -share * logp[:, 0] + 1e-12).all() and (value > 0).all()


def test_only_the_most_uncertain_tokens_of_hints_have_a_gradient(models):
    assert models["initial"]
    batch = hinted(models, hard())
    perturb(models.policy)
    reading = Hinted("one_step", learned=0.3)
    with torch.no_grad():
        noisy = reading.credit(batch, models)
    hint = (batch.take("hint") == 1) & batch.own
    mute = noisy.take("mute") == 1
    kept = hint & ~mute
    assert int(kept.sum()) == -(-3 * int(hint.sum()) // 10)
    scores = models.scores(reading.views(noisy, models, "policy", "policy"), noisy)
    entropy = scores["policy"].entropy.detach()
    assert entropy[kept].min() >= entropy[mute].max()
    now = reading.logp(scores, noisy, "policy")
    assert torch.equal(now, Likelihood("one_step").logp(scores, noisy, "policy"))
    quiet = gradients(igpo(**SMALL, learned=0.0), models, batch).policy
    loud = gradients(igpo(**SMALL, learned=1.0), models, batch).policy
    assert max(float((a - b).abs().max()) for a, b in zip(quiet, loud, strict=True)) > 1e-4


def test_bad_options_are_refused(models):
    for options, said in (
        ({"n": 1}, "at least 2"), ({"hint_low": 0.7}, "the least first"),
        ({"piece_low": 11}, "the shortest first"), ({"replaced": 1.1}, "replaced=1.1"),
        ({"learned": -0.1}, "learned=-0.1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            igpo(**options)
    task = hard()
    untold = [replace(p, solution=None) for p in task.train]
    wrong = replace(task, correct=lambda problem, text: False)
    with pytest.raises(ValueError, match="no solution to show"):
        igpo(**SMALL).rollout(untold, models, wrong, 3)
