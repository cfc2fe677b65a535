"""opsd_paper: the settings of the conference version, one name away."""

from __future__ import annotations

import copy

import pytest
import torch

from autodidact.divergence import Divergence
from autodidact.methods.opsd import opsd
from autodidact.methods.opsd_paper import opsd_paper
from autodidact.model import LM
from autodidact.models import Models
from toys import about, random_logits, rows_of, toy_task


def test_it_is_opsd_with_the_settings_of_the_paper():
    method, batch = opsd_paper(), rows_of([3, 2])
    scores = {
        name: about(batch, random_logits(5, 3, seed=seed, size=2.0))
        for seed, name in enumerate(("policy", "teacher"))
    }
    p, q = (scores[name].hidden.softmax(-1) for name in ("policy", "teacher"))
    expected = (q * (q / p).log()).clamp(max=0.05).sum(-1)
    assert torch.allclose(method.loss(scores, batch)[batch.own], expected, atol=1e-12)
    assert (method.rollout.n, method.rollout.length) == (1, 1024)
    assert method.rollout.law.describe() == {
        "temperature": 1.1, "top_k": 20, "top_p": 0.95, "min_p": 0.0
    }  # fmt: skip
    assert method.name == "opsd_paper"
    large = opsd_paper(clip=1e9).loss(scores, batch)
    assert torch.equal(large, opsd().loss(scores, batch))


def test_the_teacher_thinks_while_the_student_does_not(qwen):
    words = copy.deepcopy(qwen.tokenizer)
    words.chat_template = (
        "{% for m in messages %}{{ '<|user|>' + m['content'] }}{% endfor %}<|assistant|>"
        "{% if enable_thinking is defined and not enable_thinking %}(no thoughts){% endif %}"
    )
    lm = LM(qwen.model, words, "thinker", thinking=False)
    models, task = Models(lm), toy_task(2)
    method = opsd_paper(length=3)
    batch = method.rollout(task.train, models, task, 0)
    views = method.views(batch, models)
    texts = {name: words.decode(view.ids[0][view.real[0]]) for name, view in views.items()}
    assert "(no thoughts)" in texts["policy"] and "solution:" not in texts["policy"]
    assert "(no thoughts)" not in texts["teacher"] and "solution:" in texts["teacher"]


def test_the_student_draws_from_its_twenty_likeliest_words(qwen):
    task, models = toy_task(4), Models(qwen)
    batch = opsd_paper(length=4).rollout(task.train, models, task, 0)
    rank = models.score(opsd_paper().views(batch, models)["policy"], batch).rank
    assert int(rank.max()) < 20
    assert batch.take("logp")[batch.own].tolist() != pytest.approx(
        batch.take("raw")[batch.own].tolist()
    )


def test_the_preprint_has_the_jsd_and_no_clip():
    found = opsd_paper(version="preprint")
    assert found.signal_name.startswith("jsd")
    batch = rows_of([3, 2])
    logits = random_logits(2, int(batch.own.sum()), 3)
    student, teacher = (about(batch, each / 1.1) for each in logits)
    value = found.loss({"policy": student, "teacher": teacher}, batch)
    expected = student.divergence(teacher, Divergence("jsd", 0.5))
    assert torch.allclose(value, expected) and float(value.detach().min()) >= 0
    with pytest.raises(ValueError, match=r"version 'v2' is unknown"):
        opsd_paper(version="v2")
