"""sft: token-mean cross entropy of the solution tokens, over the whole step."""

from __future__ import annotations

import pytest
import torch

from autodidact.learn import learn
from autodidact.methods.sft import sft
from autodidact.models import Models
from autodidact.run import Run
from toys import about, random_logits, rows_of, toy_task


def test_it_is_torch_cross_entropy_with_ignore_index(qwen):
    task, models = toy_task(5), Models(qwen)
    rows = [
        (qwen.render(task.prompt(p)), [*qwen.tokenizer(p.solution)["input_ids"], qwen.end])
        for p in task.train
    ]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, labels = torch.zeros(5, width, dtype=torch.long), torch.full((5, width), -100)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    logits = qwen.model(ids).logits  # causal: right padding cannot reach a real token
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )
    parameters = list(qwen.model.parameters())
    gradients = torch.autograd.grad(expected, parameters)

    method = sft()
    batch = method.rollout(task.train, models, task, 0)
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    before = [p.detach().clone() for p in parameters]
    found = learn(method, models, batch, optimizer, Run(steps=1, rows=5, micro_rows=2, grad_clip=0))
    assert found["loss"] == pytest.approx(float(expected.detach()), rel=1e-6)
    for old, new, gradient in zip(before, parameters, gradients, strict=True):
        assert torch.allclose(old - new, gradient, rtol=1e-5, atol=1e-9)


def test_the_gradient_in_the_logits_is_p_minus_onehot_over_all_tokens():
    method, batch = sft(), rows_of([3, 1])
    logits = random_logits(4, 3)
    values = method.loss({"policy": about(batch, logits)}, batch)
    (values * method.weigh(batch)).sum().backward()
    onehot = torch.nn.functional.one_hot(batch.ids[batch.own], 3)
    assert torch.allclose(logits.grad, (logits.softmax(-1) - onehot).detach() / 4, atol=1e-7)


def test_the_end_token_is_taught_and_the_prompt_is_not(qwen):
    task = toy_task(3)
    batch = sft().rollout(task.train, Models(qwen), task, 0)
    for row, problem in enumerate(batch.rows):
        own = batch.ids[row][batch.own[row]].tolist()
        assert own[-1] == qwen.end and qwen.decode(own) == problem.solution
        assert int(batch.own[row].int().argmax()) == len(qwen.render(task.prompt(problem)))
