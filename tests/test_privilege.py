"""Diagnostics: kinds of tokens, acceptance, and what a teacher knows that its student does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.kinds import KINDS, Kinds, kind_of
from autodidact.learn import backward
from autodidact.ledger import Ledger
from autodidact.measure import Tally
from autodidact.methods.grpo import grpo
from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.privilege import PROBLEMS, privilege
from toys import perturb, random_qwen, toy_task

# ------------------------------------------------------------------ kinds of tokens


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" Wait", "style"), ("let's", "style"), ("So", "style"), (" therefore", "style"),
        ("7", "digits"), (" 42", "digits"), ("4x", "other"),
        ("+", "operators"), (" >=", "operators"), ("\\frac", "operators"), ("≤", "operators"),
        (")", "operators"), ("x", "other"), (" apple", "other"), ("\n", "other"), (".", "other"),
    ],
)  # fmt: skip
def test_a_kind_is_read_off_the_text(text, kind):
    assert kind_of(text) == kind


def test_special_tokens_and_what_ends_a_completion_are_ends(tiny):
    ids = torch.tensor([[tiny.end, *tiny.tokenizer("4+a")["input_ids"]]])
    found = [KINDS[i] for i in Kinds.of(tiny)(ids)[0].tolist()]
    assert found == ["ends", "digits", "operators", "other"]
    digit = int(ids[0, 1])
    assert KINDS[int(Kinds(tiny.tokenizer, frozenset([digit]))(ids)[0, 1])] == "ends"
    assert KINDS[int(Kinds(tiny.tokenizer)(ids)[0, 1])] == "digits"


# ------------------------------------------------------------------ what a step measures


@pytest.fixture(scope="module")
def setting(tokenizer):
    """(models, task, batch): completions of digits, signs and ends, drawn from random weights."""
    models, task = Models(random_qwen(tokenizer)), toy_task(3)
    method = opsd(length=8)
    models["initial"]
    perturb(models.policy, 0.1)
    batch = method.rollout(task.train, models, task, 0)
    words = torch.tensor([models.policy.end, *tokenizer("4+a")["input_ids"]])
    ids = torch.where(batch.own, words[torch.arange(batch.ids.shape[1]) % 4], batch.ids)
    batch = replace(batch, ids=ids)
    return models, task, batch.put(weight=method.weigh(batch))


def pieces(setting, method, rows):
    models, _, batch = setting
    tally = Tally(Kinds.of(models.policy))
    for piece in batch.split(rows):
        backward(method, models, piece, tally)
    return tally.means()


def test_the_divergence_of_a_kind_is_the_mean_over_its_tokens(setting):
    models, _, batch = setting
    method = opsd(clip=0.05)
    found = pieces(setting, method, 2)
    views = method.views(batch, models)
    laws = [
        (scores.head.logits(scores.hidden)).log_softmax(-1).exp().detach()
        for scores in models.scores(views, batch).values()
    ]
    tv = (laws[0] - laws[1]).abs().sum(-1) / 2
    kinds = Kinds.of(models.policy)(batch.ids[batch.own])
    seen = {}
    for number, name in enumerate(KINDS):
        if (kinds == number).any():
            seen[f"divergence_{name}"] = float(tv[kinds == number].mean())
    assert {"divergence_digits", "divergence_operators", "divergence_other"} < seen.keys()
    assert {k: v for k, v in found.items() if k.startswith("divergence_")} == pytest.approx(seen)
    assert found["acceptance"] == pytest.approx(1 - float(tv.mean()))
    assert 0 <= found["negative"] <= 1 and -1 <= found["cosine"] <= 1


def test_a_step_without_a_teacher_measures_none_of_it(setting):
    models, _, batch = setting
    batch = batch.put(advantage=batch.own.float())
    found = pieces((models, None, batch), grpo(n=2), 3)
    assert not {name for name in found if name.startswith("divergence_")} | (
        {"acceptance"} & set(found)
    )


# ------------------------------------------------------------------ privilege


def by_hand(models, messages, completion, model):
    """Log-probabilities of a completion after a prompt, without this library's views."""
    tokenizer = models.policy.tokenizer
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).squeeze(1)


@pytest.mark.parametrize("teacher", ["initial", "policy"])
def test_the_gap_and_the_leakage_are_those_of_the_reference_read_twice(setting, teacher):
    models, task, _ = setting
    method = opsd(teacher=teacher)
    ours, theirs = [], []
    for problem in task.train:
        ids = models.policy.encode(problem.solution)
        student = models.policy.model
        ours.append(by_hand(models, task.prompt(problem), ids, student))
        theirs.append(by_hand(models, task.privileged(problem), ids, models[teacher].model))
    ours, theirs = torch.cat(ours), torch.cat(theirs)
    spent = models.ledger.counts()
    found = privilege(method, models, task, task.train)
    assert found["leakage"] == pytest.approx(float(ours.mean()), rel=1e-9)
    assert found["privilege_gap"] == pytest.approx(float((theirs - ours).mean()), rel=1e-9)
    assert abs(found["privilege_gap"]) > 1e-3
    assert models.ledger.counts() == spent and isinstance(models.ledger, Ledger)


def test_an_untold_teacher_has_no_privilege(setting):
    models, task, _ = setting
    found = privilege(opsd(teacher="policy", context="none"), models, task, task.train)
    assert abs(found["privilege_gap"]) < 1e-12


def test_a_sum_of_teachers_is_asked_as_a_whole(setting):
    """2 z - z is z."""
    models, task, _ = setting
    one, two = (
        privilege(opsd(teacher=text), models, task, task.train)
        for text in ("initial", "1*initial + 0*policy")
    )
    assert one == pytest.approx(two, rel=1e-9)


def test_problems_without_a_reference_or_too_long_are_left_out(setting):
    models, task, _ = setting
    first = task.train[0]
    bare = replace(first, solution=None, answer=None)
    long = replace(first, solution="7" * (models.policy.context + 1))
    expected = privilege(opsd(), models, task, [first])
    assert privilege(opsd(), models, task, [bare, first, long]) == expected
    assert privilege(opsd(), models, task, [bare, long]) == {}
    assert privilege(grpo(kl=0.1), models, task, task.train) == {}


def test_it_reads_so_many_problems_and_no_more(setting):
    models, task, _ = setting
    first, second, _ = task.train
    many = [first] * PROBLEMS
    alone = privilege(opsd(), models, task, many)
    assert privilege(opsd(), models, task, [*many, second]) == alone
    assert alone == pytest.approx(privilege(opsd(), models, task, [first]), rel=1e-9)
