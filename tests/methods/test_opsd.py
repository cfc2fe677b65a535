"""opsd: the divergence to the same weights that have seen the solution."""

from __future__ import annotations

import pytest
import torch

from autodidact.methods.opsd import opsd
from autodidact.models import Models
from autodidact.run import Run
from autodidact.train import Training
from toys import about, perturb, random_logits, random_qwen, rows_of, toy_task


def gradient_and_value(method, student, teacher, batch):
    scores = {"policy": about(batch, student), "teacher": about(batch, teacher)}
    loss = (method.loss(scores, batch) * method.weigh(batch)).sum()
    return torch.autograd.grad(loss, student)[0], float(loss.detach())


@pytest.fixture
def pair():
    return rows_of([3, 2]), random_logits(5, 3, size=2.0), random_logits(5, 3, seed=1, size=2.0)


def test_the_gradient_in_the_logits_is_p_minus_q_over_all_tokens(pair):
    batch, student, teacher = pair
    found, _ = gradient_and_value(opsd(), student, teacher, batch)
    expected = (student.softmax(-1) - teacher.softmax(-1)).detach() / 5
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_the_pointwise_clip_teaches_the_teacher_without_its_favourites(pair):
    """With U the words below the clip the gradient is q(U) p - q 1_U."""
    batch, student, teacher = pair
    clip = 0.05
    found, value = gradient_and_value(opsd(clip=clip), student, teacher, batch)
    p, q = student.softmax(-1).detach(), teacher.softmax(-1).detach()
    summands = q * (q / p).log()
    below = (summands < clip).double()
    assert 0 < below.mean() < 1
    expected = ((q * below).sum(-1, keepdim=True) * p - q * below) / 5
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert value == pytest.approx(float(summands.clamp(max=clip).sum() / 5), rel=1e-6)


def test_an_infinite_clip_is_the_plain_forward_divergence(pair):
    batch, student, teacher = pair
    (one, first), (two, second) = (
        gradient_and_value(opsd(clip=clip), student, teacher, batch) for clip in (None, torch.inf)
    )
    assert first == second and torch.equal(one, two)


@pytest.mark.parametrize(("beta", "limit"), [(1e-7, "forward"), (1 - 1e-7, "reverse")])
def test_the_jsd_over_its_weight_tends_to_the_kl_forms(pair, beta, limit):
    batch, student, teacher = pair
    found, value = gradient_and_value(opsd(divergence="jsd", beta=beta), student, teacher, batch)
    expected, whole = gradient_and_value(opsd(divergence=limit), student, teacher, batch)
    weight = min(beta, 1 - beta)
    assert value / weight == pytest.approx(whole, rel=1e-5)
    assert torch.allclose(found / weight, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "jsd", "tv"])
@pytest.mark.parametrize("support", ["student", "teacher", "union", "intersection"])
def test_lists_of_all_words_are_the_whole_vocabulary(pair, divergence, support):
    batch, student, teacher = pair
    expected, whole = gradient_and_value(opsd(divergence=divergence), student, teacher, batch)
    for options in ({"k": 2, "form": "tail"}, {"k": 3, "form": "renormalised"}):
        if support in ("union", "intersection") and options["k"] == 2:
            continue  # two lists of two are not all words but one
        method = opsd(divergence=divergence, support=support, **options)
        found, value = gradient_and_value(method, student, teacher, batch)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert value == pytest.approx(whole, rel=1e-9)


def test_the_sampled_token_is_the_policy_gradient_of_the_log_ratio(pair):
    """On-policy distillation as people write it: -A log p with A = log q - log p held constant."""
    batch, student, teacher = pair
    method = opsd(divergence="reverse", support="sampled", estimator="policy_gradient")
    found, _ = gradient_and_value(method, student, teacher, batch)
    words = batch.ids[batch.own]
    logp, logq = (x.log_softmax(-1)[range(5), words] for x in (student, teacher))
    loss = -((logq - logp).detach() * logp).sum() / 5
    expected = torch.autograd.grad(loss, student)[0]
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_a_rescaled_jsd_is_the_jsd_over_its_weights(pair):
    batch, student, teacher = pair
    one, value = gradient_and_value(opsd(divergence="jsd", beta=0.2), student, teacher, batch)
    other, scaled = gradient_and_value(
        opsd(divergence="jsd", beta=0.2, rescale=True), student, teacher, batch
    )
    assert scaled == pytest.approx(value / 0.16, rel=1e-9)
    assert torch.allclose(other, one / 0.16, rtol=1e-9)


def test_the_ratio_to_the_law_of_sampling_is_one_at_first_and_cut_later(qwen):
    method, models, task = opsd(length=4, ratio_clip=1.2), Models(qwen), toy_task()
    batch = method.rollout(task.train, models, task, 0)

    def values(method):
        views = method.views(batch, models)
        scores = {name: models.score(view, batch) for name, view in views.items()}
        ratio = (scores["policy"].logp - batch.take("logp")).exp().detach()
        return method.loss(scores, batch).detach(), ratio

    found, _ = values(method)
    plain, _ = values(opsd(length=4))
    assert torch.allclose(found, plain, rtol=1e-5)
    perturb(models.policy, 0.1)
    found, ratio = values(method)
    plain, _ = values(opsd(length=4))
    assert (ratio[batch.own] > 1.2).any() and (ratio[batch.own] < 1.2).any()
    assert torch.allclose(found, plain * ratio.clamp(max=1.2), rtol=1e-9)


def test_a_step_measures_what_the_support_holds_and_what_the_clip_turns(qwen):
    method = opsd(length=4, clip=1e-4, support="teacher", k=20)
    _, line = Training(method, Models(qwen), toy_task(), Run(steps=1, rows=4)).advance()
    assert 0 < line["mass"] < line["teacher_mass"] < 1
    assert -1 <= line["cosine"] < 0.9 and line["negative"] > 0.5
    _, line = Training(opsd(length=4), Models(qwen), toy_task(), Run(steps=1, rows=4)).advance()
    assert not {"mass", "teacher_mass", "cosine"} & set(line) and line["negative"] == 0


@pytest.mark.parametrize("teacher", ["initial", "policy", "ema"])
def test_the_loss_is_zero_when_the_teacher_reads_what_the_student_reads(qwen, teacher):
    method, models, task = opsd(length=5, teacher=teacher), Models(qwen), toy_task(told=False)
    batch = method.rollout(task.train, models, task, 0)
    scores = {name: models.score(view, batch) for name, view in method.views(batch, models).items()}
    assert float(method.loss(scores, batch).detach().abs().max()) < 1e-14


def test_it_is_the_divergence_of_two_prompts_under_the_teachers_weights(tokenizer):
    """Read without this library: HF logits of the student's and of the teacher's text."""
    student, models = random_qwen(tokenizer), Models(random_qwen(tokenizer))
    task = toy_task(3)
    method = opsd(length=4)
    batch = method.rollout(task.train, models, task, 0)
    initial = student.model
    views = method.views(batch, models)  # makes the teacher
    perturb(models.policy)
    scores = {name: models.score(view, batch) for name, view in views.items()}
    values = method.loss(scores, batch)
    for row, problem in enumerate(batch.rows):
        completion = batch.ids[row][batch.own[row]].tolist()
        laws = []
        for model, messages in ((models.policy.model, task.prompt), (initial, task.privileged)):
            prompt = tokenizer.apply_chat_template(
                messages(problem), add_generation_prompt=True, return_dict=False
            )
            logits = model(torch.tensor([prompt + completion])).logits[0]
            laws.append(logits[len(prompt) - 1 : -1].log_softmax(-1))
        p, q = laws
        expected = (q.exp() * (q - p)).sum(-1)
        assert torch.allclose(values[row][batch.own[row]], expected, rtol=1e-7, atol=1e-12)
        assert expected.min() > 1e-4


def test_the_temperature_of_sampling_is_the_temperature_of_both_laws(qwen):
    method, models, task = opsd(length=4, temperature=1.7), Models(qwen), toy_task(2)
    batch = method.rollout(task.train, models, task, 0)
    for view in method.views(batch, models).values():
        assert models.score(view, batch).temperature == 1.7


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"divergence": "foward"}, "did you mean 'forward'"),
        ({"divergence": "jsd", "beta": 0.0}, "strictly between"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"clip_kind": "both"}, "clip_kind 'both'"),
        ({"support": "techer"}, "did you mean 'teacher'"),
        ({"support": "teacher", "form": "renormalised", "k": 1}, "always zero"),
        ({"support": "teacher", "form": "raw"}, "pulls on the mass of the list"),
        ({"support": "sampled"}, "take 'policy_gradient'"),
        ({"support": "sampled", "divergence": "reverse", "estimator": "k1"}, "gradient is zero"),
        ({"support": "sampled", "estimator": "k2"}, "take divergence 'reverse'"),
        ({"estimator": "advantage"}, "expected gradient is zero"),
        ({"support": "sampled", "estimator": "policy_gradient", "clip": 0.05}, "is no sum"),
        ({"discount": 1.0}, "only the reverse divergence"),
        ({"ratio_clip": 0.5}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        opsd(**arguments)


def test_an_unknown_teacher_is_refused_with_the_nearest(qwen):
    method, models, task = opsd(length=2, teacher="initail"), Models(qwen), toy_task(2)
    batch = method.rollout(task.train, models, task, 0)
    with pytest.raises(ValueError, match="did you mean 'initial'"):
        method.views(batch, models)
