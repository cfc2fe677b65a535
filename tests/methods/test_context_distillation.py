"""context_distillation: reverse KL to the same weights under a system message."""

from __future__ import annotations

import pytest
import torch

from autodidact.methods.context_distillation import context_distillation
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import perturb, random_qwen, toy_task

TEXT = "Answer in verse."


def test_it_is_the_reverse_divergence_of_two_prompts(tokenizer):
    """Read without this library: HF logits of the question, alone and under the message."""
    initial, models = random_qwen(tokenizer).model, Models(random_qwen(tokenizer))
    method, task = context_distillation(length=4, text=TEXT), toy_task(3, told=False)
    batch = method.credit(method.rollout(task.train, models, task, 0), models)
    views = method.views(batch, models)  # makes the teacher
    perturb(models.policy)
    scores = models.scores(views, batch)
    values = method.loss(scores, batch).detach()
    for row, problem in enumerate(batch.rows):
        question = {"role": "user", "content": problem.question}
        message = {"role": "system", "content": TEXT}
        completion, laws = batch.ids[row][batch.own[row]].tolist(), []
        for model, messages in ((models.policy.model, [question]), (initial, [message, question])):
            prompt = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=False
            )
            logits = model(torch.tensor([prompt + completion])).logits[0]
            laws.append(logits[len(prompt) - 1 : -1].log_softmax(-1))
        p, q = laws
        expected = (p.exp() * (p - q)).sum(-1)
        assert torch.allclose(values[row][batch.own[row]], expected, rtol=1e-7, atol=1e-12)
        assert expected.min() > 1e-4


def test_a_teacher_who_is_told_nothing_teaches_nothing(qwen):
    method = context_distillation(length=4, context="none")
    _, line = Training(method, Models(qwen), toy_task(), Run(steps=1, rows=4)).advance()
    assert line["loss"] == pytest.approx(0, abs=1e-14)


def test_a_message_must_be_given_and_problems_need_a_question_only():
    with pytest.raises(ValueError, match="'system', which needs one"):
        context_distillation()
    assert context_distillation(text=TEXT).needs == ()
