"""GRPO: TRL's trainer makes updates; at its weights, on its tokens, ours has the same gradient.

Everything of TRL is its own: sampling, rewards, advantages, old and reference log-probabilities,
gradient accumulation. Where the two differ by design:

- TRL multiplies k3 by the ratio (`use_bias_correction_kl=True`), which makes its gradient that of
  KL(policy || reference). Ours is k3 as in the paper, and TRL's is `kl_kind="k3_ratio"`.
- TRL's `epsilon_high` of CISPO is the largest ratio itself, our `clip_high` that minus one.
- TRL's RLOO has a clipped ratio of whole answers, 1 in the first update, where its value is the
  mean advantage and its gradient that of REINFORCE, as ours. Only that gradient is compared.
- TRL's old log-probability is read again by the trainer, and its own detached value where one
  update follows a generation. Ours is that of the sampler. Here ours is given TRL's.
- TRL's loss type "dapo" is the mean over tokens alone; our `dapo` also replaces groups without
  spread, off with waves=1.
- TRL's "bnpo" (mean over the tokens of a micro-batch) depends on how a batch is split. Ours has no
  such thing.
- TRL pads prompts on the left without position numbers: with rotary embeddings that rounds
  differently, nothing more. Its head always works in float32. Both bound the agreement here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from against.trl_peer import (
    DEPRECATED,
    FLOAT32,
    REASON,
    Tape,
    answer,
    largest_gap,
    settings,
)
from autodidact.batch import batch_of
from autodidact.grade import grade
from autodidact.methods.cispo import cispo
from autodidact.methods.dapo import dapo
from autodidact.methods.dr_grpo import dr_grpo
from autodidact.methods.grpo import grpo
from autodidact.methods.gspo import gspo
from autodidact.methods.rloo import rloo
from autodidact.model import load
from autodidact.view import plain
from toys import graded, toy_task

pytest.importorskip("trl", reason=REASON)
pytestmark = DEPRECATED

N, LENGTH, PROBLEMS = 4, 12, 4


def partly(problems, texts):
    """Rewards of 0, 1/2 and 1; a text that begins with "1" cannot be scored."""
    return [None if text.startswith("1") else graded(text) for text in texts]


TASK = replace(toy_task(PROBLEMS), reward=partly)


K3 = {"beta": 0.1, "use_bias_correction_kl": False}
CASES = {
    "sequence": ({"loss_type": "grpo"}, grpo(N, LENGTH)),
    "one update": ({"loss_type": "grpo", "num_iterations": 1}, grpo(N, LENGTH)),
    "unscaled": ({"loss_type": "grpo", "scale_rewards": "none"}, grpo(N, LENGTH, scale="none")),
    "dr_grpo": ({"loss_type": "dr_grpo", "scale_rewards": "none"}, dr_grpo(N, LENGTH)),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, dapo(N, LENGTH, waves=1)),
    "k3": ({"loss_type": "grpo", **K3}, grpo(N, LENGTH, kl=0.1)),
    "k3, token mean": ({"loss_type": "dapo", **K3}, grpo(N, LENGTH, kl=0.1, normalise="token")),
    "temperature": (
        {"loss_type": "grpo", "temperature": 0.7}, grpo(N, LENGTH, temperature=0.7)
    ),
    "accumulated": ({"loss_type": "grpo", "gradient_accumulation_steps": 4}, grpo(N, LENGTH)),
    "accumulated dapo": (
        {"loss_type": "dapo", "epsilon_high": 0.28, "gradient_accumulation_steps": 4},
        dapo(N, LENGTH, waves=1),
    ),
    "k3 times the ratio": (
        {"loss_type": "grpo", "beta": 0.1}, grpo(N, LENGTH, kl=0.1, kl_kind="k3_ratio")
    ),
    "two-sided": ({"loss_type": "grpo", "delta": 1.25}, grpo(N, LENGTH, dual=1.25)),
    "masked": (
        {"loss_type": "grpo", "mask_truncated_completions": True, "max_completion_length": 7},
        grpo(N, 7, mask_truncated=True),
    ),
    "gspo": (
        {
            "loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03,
            "epsilon_high": 0.04,
        },
        gspo(N, LENGTH, clip=0.03, clip_high=0.04),
    ),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.2}, cispo(N, LENGTH, clip_high=0.2)),
}  # fmt: skip


def record(model, folder, kind="GRPO", **options):
    """Two updates of TRL on one batch of its own: the tape, what it was asked, what it made."""
    import trl
    from datasets import Dataset
    from transformers import PrinterCallback

    lm = load(model, device="cpu")
    tape, made = Tape(), []

    class Recorded(getattr(trl, f"{kind}Trainer")):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            made.append(([row["number"] for row in inputs], output))
            return output

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            tape.losses[-1] += float(loss.detach())
            return loss

    def reward(prompts, completions, number, **_):
        return partly(number, [message["content"] for [message] in completions])

    accumulated = options.get("gradient_accumulation_steps", 1)
    config = getattr(trl, f"{kind}Config")(
        **settings(
            folder, max_steps=2, num_iterations=2, num_generations=N, beta=0.0,
            max_completion_length=LENGTH, per_device_train_batch_size=N * PROBLEMS // accumulated,
        ) | options
    )  # fmt: skip
    rows = {"prompt": [TASK.prompt(p) for p in TASK.train], "number": list(range(PROBLEMS))}
    trainer = Recorded(
        lm.model, reward, config, Dataset.from_dict(rows), processing_class=lm.tokenizer,
        callbacks=[tape],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return tape, made


def unpadded(values, mask):
    return [row[kept.bool()].tolist() for row, kept in zip(values, mask, strict=True)]


def as_batch(numbers, output, temperature, models):
    """TRL's rows as our batch, graded by us. The old log-probabilities are TRL's where it has
    some, and else those of the policy. A row whose mask is empty is one that TRL masked whole."""
    prompts = unpadded(output["prompt_ids"], output["prompt_mask"])
    finished = output["completion_mask"].any(1, keepdim=True)
    written = output["completion_mask"].bool() | ~finished
    completions = unpadded(output["completion_ids"], written)
    problems = [TASK.train[i] for i in numbers]
    assert prompts == [models.policy.render(TASK.prompt(problem)) for problem in problems]
    batch = batch_of(problems, prompts, completions, TASK, group=numbers, temperature=temperature)
    with torch.no_grad():
        old = models.score(plain(batch), batch).logp
    if "old_per_token_logps" in output:
        theirs = output["old_per_token_logps"][written]
        theirs = torch.where(finished, torch.zeros_like(old).masked_scatter(batch.own, theirs), old)
        torch.testing.assert_close(old, theirs, rtol=0, atol=2e-5)
        old = theirs
    return grade(batch.put(raw=old, finished=finished[:, 0].float()), models)


@pytest.mark.parametrize("case", CASES)
def test_two_updates_have_the_loss_and_gradient_of_trl(case, blurred, models, tmp_path):
    options, method = CASES[case]
    tape, made = record(blurred, tmp_path, **options)
    assert len(tape.gradients) == 2
    for update, weights in enumerate(tape.weights):
        models.policy.model.load_state_dict(weights)
        if update < len(made):
            numbers, output = made[update]
            batch = as_batch(numbers, output, options.get("temperature", 1.0), models)
        advantage = method.credit(batch, models).take("advantage")
        expected = output["advantages"][:, None] * batch.own
        torch.testing.assert_close(advantage, expected, rtol=1e-6, atol=1e-6)
        loss, gradient = answer(method, batch, models, weights)
        assert loss == pytest.approx(tape.losses[update], rel=1e-4, abs=1e-5)
        gap = largest_gap(gradient, tape.gradients[update])
        print(f"{case}, update {update + 1}: loss {loss:.6f}, gradients {gap:.1e} apart")
        assert gap < FLOAT32
    if len(made) == 1:
        with torch.no_grad():
            ratio = (models.score(plain(batch), batch).logp - batch.take("raw")).exp()
        assert ((ratio < 0.8) | (ratio > 1.28))[batch.own].any(), "the clip was at work"
    assert batch.take("reward").isnan().any(), "a row that cannot be scored was among them"
    assert (case == "masked") is not bool(batch.take("finished").all())


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_the_first_update_of_rloo_has_the_gradient_of_trl(beta, blurred, models, tmp_path):
    """The reference is TRL's policy itself, before its first update: only beta=0 tells much more
    than that the penalty is 0 there."""
    tape, [(numbers, output), *_] = record(blurred, tmp_path, "RLOO", beta=beta)
    models.policy.model.load_state_dict(tape.weights[0])
    batch = as_batch(numbers, output, 1.0, models)
    method = rloo(N, LENGTH, kl=beta)
    with torch.no_grad():
        advantage = method.credit(batch, models).take("advantage")
    expected = output["advantages"][:, None] * batch.own
    torch.testing.assert_close(advantage, expected, rtol=1e-5, atol=1e-5)
    assert expected.any() and batch.take("reward").isnan().any()
    _, gradient = answer(method, batch, models, tape.weights[0])
    assert largest_gap(gradient, tape.gradients[0]) < FLOAT32
