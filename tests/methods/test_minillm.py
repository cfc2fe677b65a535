"""minillm: the reverse divergence of whole texts by enumeration, and tokens drawn from two laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.engine import Request
from autodidact.law import Law, draw, prompt_key, uniform
from autodidact.methods.minillm import minillm
from autodidact.models import Models
from autodidact.rollouts.mixture import Mixed, TeacherMixed
from autodidact.rollouts.sample import Sample
from toys import about, random_logits, random_qwen, rows_of, toy_task


def two_steps(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of a law over texts of two of three words: of the first, and given the first."""
    return random_logits(3, seed=seed), random_logits(3, 3, seed=seed + 100)


def all_texts(law, peer):
    """A batch of all nine texts, the scores of both laws about it, and the probability of each."""
    batch = rows_of([2] * 9)
    ids = batch.ids.clone()
    ids[:, 1:] = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    batch = replace(batch, ids=ids)
    scores = {}
    for name, (first, second) in {"policy": law, "teacher": peer}.items():
        logits = torch.stack([first.expand(9, 3), second[ids[:, 1]]], 1)
        scores[name] = about(batch, logits.flatten(0, 1))
    logp = scores["policy"].logp.detach()
    batch = batch.put(logp=logp, raw=logp)
    return batch, scores, logp.sum(1).exp()


def gradient_of_whole_texts(law, peer) -> list[torch.Tensor]:
    """Of sum_y p(y) log(p(y) / q(y)), with nothing held constant but q."""
    joint = [(f.log_softmax(-1)[:, None] + s.log_softmax(-1)) for f, s in (law, peer)]
    whole = (joint[0].exp() * (joint[0] - joint[1].detach())).sum()
    return list(torch.autograd.grad(whole, law))


def expected_gradient(method, law, peer) -> list[torch.Tensor]:
    batch, scores, chance = all_texts(law, peer)
    values = method.loss(scores, batch)
    return list(torch.autograd.grad((chance[:, None] * values).sum(), law))


def test_first_steps_and_returns_are_the_gradient_of_whole_texts():
    law, peer = two_steps(0), two_steps(1)
    found = expected_gradient(minillm(share=0, mean_return=False), law, peer)
    for one, other in zip(found, gradient_of_whole_texts(law, peer), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12) and other.abs().max() > 1e-2


def test_the_mean_return_divides_by_what_follows():
    batch = rows_of([4])
    student, teacher = random_logits(4, 3), random_logits(4, 3, seed=1)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    logp = scores["policy"].logp.detach()
    batch = batch.put(logp=logp - 0.25, raw=logp)
    values = minillm().loss(scores, batch)[batch.own].detach()
    words = batch.ids[batch.own]
    p, q = (x.log_softmax(-1).detach() for x in (student, teacher))
    gain = (q - p)[range(4), words]
    later = torch.stack([gain[1:].mean(), gain[2:].mean(), gain[3], gain.new_zeros(())])
    weight = torch.tensor(0.25, dtype=torch.float64).exp()
    expected = weight * ((p.exp() * (p - q)).sum(-1) - later)
    assert torch.allclose(values, expected, rtol=1e-9)


def test_the_ratio_to_the_law_before_the_update_is_cut():
    """Where all that follows is good and the token has already become likelier by more than clip."""
    batch = rows_of([2])
    student, teacher = random_logits(2, 3), random_logits(2, 3, seed=1)
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    logp = scores["policy"].logp.detach()
    later = (scores["teacher"].logp.detach() - logp)[0, 2]
    away = 0.5 * later.sign()
    batch = batch.put(logp=logp - away, raw=logp - away)
    found = torch.autograd.grad(minillm().loss(scores, batch).sum(), student)[0]
    p, q = student.log_softmax(-1), teacher.log_softmax(-1).detach()
    plain = torch.autograd.grad((p.exp() * (p - q)).sum(), student)[0]
    assert torch.allclose(found, plain, rtol=1e-9, atol=1e-12)


@pytest.fixture
def pair(tokenizer):
    """A policy, and another model in the role "peer"."""
    models = Models(random_qwen(tokenizer))
    models._roles["peer"] = random_qwen(tokenizer, seed=1)
    return models


def test_tokens_are_drawn_from_the_mixture_of_two_laws(pair):
    """Every token again, by fresh reads of transformers' own models and the same numbers."""
    task, share, seed = toy_task(3), 0.3, 5
    batch = TeacherMixed(2, 8, Law(0.9), "peer", share)(task.train, pair, task, seed)
    assert len({int(n) for n in batch.own.sum(1)}) > 1
    for row in range(len(batch)):
        ids, own = batch.ids[row][batch.real[row]], batch.own[row][batch.real[row]]
        start = int(own.int().argmax())
        laws = [
            (pair[role].model(ids[None]).logits[0, start - 1 : -1] / 0.9).log_softmax(-1)
            for role in ("policy", "peer")
        ]
        both = ((1 - share) * laws[0].exp() + share * laws[1].exp()).log()
        places, count = torch.arange(len(both)), len(both)
        key = torch.full((count,), prompt_key(ids[:start].tolist()))
        numbers = uniform(seed, key, torch.full((count,), row % 2), places)
        assert torch.equal(draw(both, numbers), ids[start:])
        for name, law in {"logp": both, "raw": laws[0]}.items():
            found = batch.take(name)[row][batch.own[row]].double()
            assert torch.allclose(found, law[places, ids[start:]], atol=1e-5)
    weight = (batch.take("raw") - batch.take("logp")).exp()[batch.own]
    assert weight.max() <= 1 / (1 - share) + 1e-5 and weight.min() < 1


def test_without_the_teacher_it_is_sample(pair):
    task = toy_task(4)
    mixed = TeacherMixed(3, 7, Law(), "peer", 0.0)(task.train, pair, task, 2)
    alone = Sample(3, 7)(task.train, pair, task, 2)
    assert torch.equal(mixed.ids, alone.ids) and torch.equal(mixed.own, alone.own)
    assert torch.allclose(mixed.take("logp"), alone.take("logp"), atol=1e-6)
    assert isinstance(minillm(share=0).rollout, Sample)
    assert not isinstance(minillm(share=0).rollout, TeacherMixed)


def test_neither_slots_nor_where_a_row_was_cut_matters(pair):
    asked = [Request((7, 8, 9), k, 6) for k in range(5)]
    whole = Mixed(pair["peer"], 0.4).draw(pair.policy, asked, Law(), 1)
    few = Mixed(pair["peer"], 0.4, slots=2).draw(pair.policy, asked, Law(), 1)
    assert [e.ids for e in few.completions] == [e.ids for e in whole.completions]
    long = next(e for e in whole.completions if len(e.ids) > 3)
    number = whole.completions.index(long)
    rest = Request((7, 8, 9), number, 4, tuple(long.ids[:2]))
    again = Mixed(pair["peer"], 0.4).draw(pair.policy, [rest], Law(), 1).completions[0]
    assert again.ids == long.ids[2:6]


def test_the_ledger_is_charged_for_both(pair):
    task = toy_task(3)
    batch = TeacherMixed(2, 6, Law(), "peer")(task.train, pair, task, 0)
    generated = int(batch.own.sum())
    assert pair.ledger.generated == generated and pair.ledger.prefilled > 0
    assert pair.ledger.teacher_forward == pair.ledger.prefilled + generated


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"share": 1.0}, "share=1.0"),
        ({"temperature": 0.0}, "cannot be mixed"),
        ({"clip": 0.0}, "clip=0.0"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        minillm(**arguments)
