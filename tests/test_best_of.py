"""The best of n: each measure against its definition, votes against counting, choices against all."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

from autodidact.batch import batch_of
from autodidact.grade import texts
from autodidact.models import Models
from autodidact.rollouts.choose import BestOf
from autodidact.rollouts.ranking import borda, certainty, confidence, span, votes
from autodidact.rollouts.sample import Sample
from autodidact.statistics import majority
from toys import random_qwen, toy_task


@pytest.fixture(scope="module")
def drawn(tokenizer):
    """(models, task, the plain draw): answers are the length of the text, in thirds."""
    models = Models(random_qwen(tokenizer))
    task = replace(toy_task(3), final=lambda text: str(len(text) % 3) if len(text) > 2 else None)
    return models, task, Sample(6, 7)(task.train, models, task, 1)


def best(drawn, by, **options):
    models, task, _ = drawn
    return BestOf(6, 7, by=by, **options)(task.train, models, task, 1)


def completions(batch):
    return [ids[own].tolist() for ids, own in zip(batch.ids, batch.own, strict=True)]


@torch.no_grad()
def test_certainty_is_the_divergence_of_the_uniform_law_before_each_token(drawn):
    models, _, batch = drawn
    found = certainty(batch, models)
    for row in range(len(batch)):
        ids, own = batch.ids[row][batch.real[row]], batch.own[row][batch.real[row]]
        law = models.policy.model(ids[None]).logits[0].log_softmax(-1)
        words = law.shape[-1]
        each = -math.log(words) - law.mean(-1)
        right, shifted = each[:-1][own[1:]].mean(), each[own].mean()
        assert float(found[row]) == pytest.approx(float(right), abs=1e-9)
        assert abs(float(found[row] - shifted)) > 1e-5, "the release is shifted by one"


@pytest.mark.parametrize("by", ["certainty", "likelihood"])
def test_the_highest_of_each_problem_is_kept(drawn, by):
    models, _, batch = drawn
    merit = certainty(batch, models)
    if by == "likelihood":
        merit = (batch.take("raw") * batch.own).sum(1) / batch.own.sum(1)
    wanted = [6 * i + int(merit[6 * i : 6 * i + 6].argmax()) for i in range(3)]
    found = best(drawn, by)
    assert completions(found) == [completions(batch)[row] for row in wanted]
    assert found.take("selected").tolist() == [1, 1, 1] and "selected" not in batch.streams
    two = best(drawn, by, keep=2)
    assert sorted(merit.view(3, 6).topk(2).indices[0].tolist()) == [
        completions(batch)[:6].index(each) for each in completions(two)[:2]
    ]


def test_confidence_is_the_mean_probability_of_the_last_mention(tiny):
    rows = {"is 42, so 42.": "42", "7": "7", "42 or 4": "4", "so 42.": "41", "no": None}
    ids = [tiny.encode(text) for text in rows]
    dice = random.Random(0)
    raw = [[-dice.random() for _ in row] for row in ids]
    problems = toy_task(len(rows)).train
    batch = batch_of(problems, [[1]] * len(rows), ids, toy_task(), tokens={"raw": raw})
    found = confidence(batch, Models(tiny), list(rows.values())).tolist()
    p = [[math.exp(value) for value in row] for row in raw]
    expected = [(p[0][10] + p[0][11]) / 2, p[1][0], p[2][6]]
    assert found[:3] == pytest.approx(expected, abs=1e-6)
    assert found[3:] == [-math.inf, -math.inf]


def test_a_span_is_all_tokens_of_the_answer_whatever_their_size(tiny):
    ids = tiny.encode("so 12é is 12é!")
    size = len("so 12é is ".encode())
    assert span(tiny, ids, "12é") == range(size, size + 4)
    assert span(tiny, ids, "é") == range(size + 2, size + 4)
    assert span(tiny, ids, "é!") == range(size + 2, size + 5)
    for missing in ("13", "", None):
        assert len(span(tiny, ids, missing)) == 0


def random_votes(seed):
    dice = random.Random(seed)
    answers = [dice.choice(["a", "b", "c", None]) for _ in range(dice.randint(1, 8))]
    return answers, [dice.random() for _ in answers]


@pytest.mark.parametrize("seed", range(20))
def test_a_vote_counts_answers_and_weighs_them_by_the_rank_of_certainty(seed):
    answers, sure = random_votes(seed)
    for power in (0.0, 0.5, 2.0, math.inf):
        weights = borda(answers, sure, power)
        won = {a for a, v in zip(answers, votes(answers, weights), strict=True) if v == v}
        voters = [i for i, a in enumerate(answers) if a is not None]
        if not voters:
            assert not won
            continue
        n, ranked = len(answers), sorted(voters, key=lambda i: -sure[i])
        totals = {
            a: sum((n - r) ** power for r, i in enumerate(ranked) if answers[i] == a)
            for a in set(answers) - {None}
        }
        if power == 0:
            winner = answers[majority(answers)]
        elif power == math.inf:
            winner = answers[ranked[0]]
        else:
            winner = max(totals, key=totals.get)
        assert won == {winner}
    plain = [i for i, v in enumerate(votes(answers, [1.0] * len(answers))) if v == v]
    assert plain[:1] == ([] if majority(answers) is None else [majority(answers)])


def test_majority_keeps_the_first_that_gave_the_winning_answer(drawn):
    models, task, batch = drawn
    answers = [task.final(text) for text in texts(batch, models)]
    groups = [answers[i : i + 6] for i in (0, 6, 12)]
    assert any(len(set(group)) > 2 for group in groups)
    wanted = [6 * i + majority(group) for i, group in enumerate(groups)]
    found = best(drawn, "majority")
    assert completions(found) == [completions(batch)[row] for row in wanted]
    kept = best(drawn, "majority", keep=6)
    stated = [task.final(text) for text in texts(kept, models)]
    assert {(int(g), a) for g, a in zip(kept.group, stated, strict=True)} == {
        (i, answers[row]) for i, row in enumerate(wanted)
    }


def test_borda_keeps_the_surest_of_the_answer_that_won(drawn):
    models, task, batch = drawn
    answers = [task.final(text) for text in texts(batch, models)]
    sure = certainty(batch, models).tolist()
    surest = [
        max((r for r in range(i, i + 6) if answers[r] is not None), key=lambda r: sure[r])
        for i in (0, 6, 12)
    ]
    found = best(drawn, "borda", power=math.inf)
    assert completions(found) == [completions(batch)[row] for row in surest]


def test_problems_without_any_answer_give_no_row_to_a_vote_and_one_to_confidence(drawn):
    models, task, _ = drawn
    silent = (models, replace(task, final=lambda text: None), None)
    assert len(best(silent, "majority")) == len(best(silent, "borda")) == 0
    assert len(best(silent, "confidence")) == 3


def test_all_that_is_drawn_is_counted_and_what_is_read_again(drawn):
    models, _, batch = drawn
    before = models.ledger.counts()
    best(drawn, "certainty")
    spent = {name: value - before[name] for name, value in models.ledger.counts().items()}
    assert spent["generated"] == int(batch.own.sum())
    assert spent["teacher_forward"] > 0 and spent["student_forward"] == spent["verified"] == 0


def test_what_cannot_be_chosen_by_is_refused(drawn):
    models, task, _ = drawn
    with pytest.raises(ValueError, match="did you mean 'certainty'"):
        BestOf(by="certainy")
    with pytest.raises(ValueError, match="power=-1"):
        BestOf(power=-1)
    bare = replace(task, final=None, reward=None, correct=None)
    for by in ("confidence", "majority", "borda"):
        with pytest.raises(ValueError, match="no `final`"):
            BestOf(6, 7, by=by)(task.train, models, bare, 1)
    with pytest.raises(ValueError, match="neither `reward` nor `correct`"):
        BestOf(6, 7)(task.train, models, bare, 1)


def test_a_bound_applies_to_every_measure(drawn):
    models, _, batch = drawn
    merit = certainty(batch, models)
    bound = float(merit.view(3, 6).max(1).values.median())
    kept = best(drawn, "certainty", least=bound)
    assert torch.equal(
        kept.group, torch.tensor([i for i in range(3) if merit[6 * i : 6 * i + 6].max() >= bound])
    )
    assert len(kept) == 2
