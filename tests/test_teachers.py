"""Teachers that are sums of roles: the law of the sum, whatever heads and biases the parts have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodidact.divergence import Divergence
from autodidact.head import Head
from autodidact.models import Models
from autodidact.rollouts.sample import Sample
from autodidact.scores import Scores
from autodidact.teachers import Teacher, mixed
from autodidact.view import plain
from toys import perturb, random_qwen, toy_task

V, D = 7, 5


def part(seed: int, bias: bool = False, scale: float = 1.0, head: Head | None = None) -> Scores:
    """Three asked tokens of a batch of two rows."""
    random = torch.Generator().manual_seed(seed)
    asked = torch.tensor([[False, True, True], [False, True, False]])
    weight = torch.randn(V, D, dtype=torch.float64, generator=random)
    shift = torch.randn(V, dtype=torch.float64, generator=random) if bias else None
    hidden = torch.randn(3, D, dtype=torch.float64, generator=random)
    head = head or Head(weight, shift, scale)
    return Scores(hidden, head, asked, torch.tensor([1, 4, 2]), 0.8)


def logits(scores: Scores) -> torch.Tensor:
    return scores.head.logits(scores.hidden)


@pytest.mark.parametrize("bias", [False, True])
def test_the_logits_are_added(bias):
    one, two, three = part(0, bias, 0.5), part(1), part(2, bias, 2.0)
    found = logits(mixed([one, two, three], [1.5, -0.3, 0.2]))
    expected = 1.5 * logits(one) - 0.3 * logits(two) + 0.2 * logits(three)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_parts_of_one_head_share_it(bias):
    one = part(0, bias)
    two = replace(part(1, head=one.head))
    found = mixed([one, two], [0.7, 0.3])
    assert torch.allclose(logits(found), 0.7 * logits(one) + 0.3 * logits(two), atol=1e-12)
    assert bias or found.head.weight.data_ptr() == one.head.weight.data_ptr()


def test_every_token_may_have_a_weight_of_its_own():
    one, two = part(0), part(1)
    weight = torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.5, 9.0]])
    found = logits(mixed([one, two], [1.0, weight]))
    own = torch.tensor([2.0, -1.0, 0.5])[:, None]
    assert torch.allclose(found, logits(one) + own * logits(two), atol=1e-12)


def test_a_mean_of_logits_is_the_normalised_geometric_mean():
    one, two = part(0), part(1)
    laws = [(logits(each) / 0.8).log_softmax(-1) for each in (one, two)]
    expected = (0.25 * laws[0] + 0.75 * laws[1]).log_softmax(-1)
    student = part(3)
    value = student.divergence(mixed([one, two], [0.25, 0.75]), Divergence("reverse"))
    p = (logits(student) / 0.8).log_softmax(-1)
    by_hand = (p.exp() * (p - expected)).sum(-1)
    assert torch.allclose(value[student.asked], by_hand, atol=1e-12)


def test_what_cannot_be_added_is_refused():
    capped = replace(part(0), head=replace(part(0).head, softcap=30.0))
    with pytest.raises(ValueError, match="soft cap"):
        mixed([part(1), capped], [1.0, 1.0])
    small = replace(part(1), head=Head(torch.randn(V - 1, D, dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"vocabularies of \[6, 7\] words"):
        mixed([part(0), small], [1.0, 1.0])


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("initial", ((1.0, "initial"),)),
        ("ema:0.99", ((1.0, "ema:0.99"),)),
        ("./some-model", ((1.0, "./some-model"),)),
        ("trust:0.25", ((0.75, "initial"), (0.25, "policy"))),
        ("1.25*a/b - 0.25*initial", ((1.25, "a/b"), (-0.25, "initial"))),
        ("policy + 2*ema:0.9 - initial", ((1.0, "policy"), (2.0, "ema:0.9"), (-1.0, "initial"))),
    ],
)
def test_teachers_by_text(text, terms):
    assert Teacher.parse(text) == Teacher(terms)


@pytest.mark.parametrize("text", ["trust:2", "trust:", "0.5*", "1.5*a b", "a + a"])
def test_texts_that_are_no_teacher(text):
    with pytest.raises(ValueError, match="teacher"):
        Teacher.parse(text)


def test_a_trust_region_lies_between_the_ends(tokenizer):
    models, task = Models(random_qwen(tokenizer)), toy_task(4)
    models["initial"]
    perturb(models.policy, 0.1)
    batch = Sample(1, 5)(task.train, models, task, 0)
    prompts = [task.privileged(problem) for problem in batch.rows]

    def gap(text: str) -> float:
        teacher = Teacher.parse(text)
        views = {"policy": plain(batch, grad=False), **teacher.views(batch, models, prompts)}
        scores = models.scores(views, batch)
        live = models.scores(Teacher.parse("policy").views(batch, models, prompts), batch)
        return float(live["teacher"].divergence(teacher.scores(scores), Divergence("tv")).sum())

    gaps = [gap(text) for text in ("policy", "trust:0.7", "trust:0.2", "initial")]
    assert gaps[0] == pytest.approx(0, abs=1e-9) and gaps == sorted(gaps) and gaps[3] > 0.01


def test_a_copy_is_made_anew_every_k_updates(tokenizer):
    models = Models(random_qwen(tokenizer))
    reader = models["copy:2"]

    def same() -> bool:
        pairs = zip(reader.model.parameters(), models.policy.model.parameters(), strict=True)
        return all(torch.equal(one, two) for one, two in pairs)

    seen = []
    for step in range(1, 6):
        perturb(models.policy, seed=step)
        models.ledger.optimizer_steps = step
        models.after_step(step - 1)
        seen.append(same())
    assert seen == [False, True, False, True, False]
    assert set(models.lasting()) == {"copy:2"}
    with pytest.raises(ValueError, match="copy:100"):
        Models(random_qwen(tokenizer))["copy:often"]
