"""One battery for every method, rollout, credit and loss.

A new method is one file and one row of `ROWS`; a missing row fails. What the battery asks:
the same gradient for 1, 2 or many micro-batches, with more padding, in another row order and
under other group numbers; finite gradients; zero gradient at the stated fixed point; nothing
mutated, no hidden randomness, no gradient in credits; and a run that replays from its `run.json`
and resumes from a checkpoint bit by bit.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import pytest
import torch

from autodidact import calls
from autodidact.auxiliary import Auxiliary
from autodidact.batch import Batch, join
from autodidact.calls import Call
from autodidact.checkpoint import complete as complete_checkpoints
from autodidact.credits.opening import choice_mean, choices, ordered_loss
from autodidact.credits.prefix import node_means, prefixes
from autodidact.credits.selection import row_names
from autodidact.credits.spans import chunks
from autodidact.credits.unmasking import Opener
from autodidact.credits.visited import visited
from autodidact.divergence import Divergence, Support
from autodidact.engines.denoise import Denoise
from autodidact.engines.unmask import Unmask
from autodidact.grade import grade
from autodidact.law import Law
from autodidact.learn import gradients
from autodidact.losses.divergence import Estimator
from autodidact.losses.policy import Surrogate, nll
from autodidact.method import Method, Rollout, token_mean, unchanged
from autodidact.models import Models
from autodidact.rollouts.beam import Beam
from autodidact.rollouts.budgets import Budgets
from autodidact.rollouts.choose import BestAndWorst, BestOf, WithSpread
from autodidact.rollouts.contrast import Contrast
from autodidact.rollouts.given import Given, GivenPairs
from autodidact.rollouts.given_canvas import GivenCanvas
from autodidact.rollouts.heated import Heating
from autodidact.rollouts.inpaint import Hints, Inpaint
from autodidact.rollouts.mixture import Mixture, TeacherMixed
from autodidact.rollouts.opened import Opened
from autodidact.rollouts.positions import Positions
from autodidact.rollouts.reference import Reference
from autodidact.rollouts.role import FromRole, SolutionPairs
from autodidact.rollouts.sample import Sample
from autodidact.rollouts.segments import Segments
from autodidact.rollouts.speculative import Speculative
from autodidact.rollouts.splice import Splice
from autodidact.rollouts.tree import Tree
from autodidact.rollouts.tries import Tries
from autodidact.rollouts.turns import Turns
from autodidact.rollouts.votes import Votes
from autodidact.run import Run
from autodidact.scores import Scores
from autodidact.session import Watcher, execute
from autodidact.spec import Spec
from autodidact.view import plain
from toys import (
    about,
    padded,
    perturb,
    photograph,
    random_logits,
    random_masked,
    random_qwen,
    renumbered,
    rows_of,
    toy_task,
)

EXACT = 1e-9
"""Largest relative difference of gradients that are equal in exact arithmetic."""
SEED = 3


# ------------------------------------------------------------------ rows of the battery


def certain(method: Method, models: Models) -> torch.Tensor:
    """Gradient in the logits when every target already has probability one."""
    batch = rows_of([2, 3])
    targets = batch.ids[batch.own]
    logits = (60.0 * torch.nn.functional.one_hot(targets, 3)).double().requires_grad_()
    scores = dict.fromkeys(("policy", "policy:1"), about(batch, logits))
    share = torch.ones(*batch.own.shape, 2, dtype=torch.float64)
    values = method.loss(scores, batch.put(share=share))
    return torch.autograd.grad((values * method.weigh(batch)).sum(), logits)[0]


def equal_rewards(method: Method, models: Models) -> torch.Tensor:
    """Gradient when all answers to a question earn the same."""
    task = replace(toy_task(), reward=lambda problems, texts: [0.5] * len(texts))
    sample = getattr(method.rollout, "inner", method.rollout)
    return flat(gradient(method, models, grade(sample(task.train, models, task, SEED), models)))


def untold_teacher(method: Method, models: Models) -> torch.Tensor:
    """Gradient when the teacher has the student's weights and reads the student's own prompt."""
    task = toy_task(told=False)
    return flat(gradient(method, models, method.rollout(task.train, models, task, SEED)))


def live_teacher(method: Method, models: Models) -> torch.Tensor:
    """Gradient when every teacher is the student itself, and is told nothing."""
    given = dict(method.arguments or {})
    names = {"teacher", "reverse", "reference"} & given.keys()
    itself = calls.method(method.name)(**{**given, **dict.fromkeys(names, "policy")})
    return untold_teacher(itself, models)


def twins(models: Models) -> Batch:
    """Pairs whose chosen and rejected answers are the same; the policy moves away afterwards."""
    task = toy_task()
    same = [replace(p, meta={"chosen": p.solution, "rejected": p.solution}) for p in task.train]
    batch = GivenPairs()(same, models, task, 0)
    assert models["initial"]
    perturb(models.policy)
    return batch


def same_answer(method: Method, models: Models) -> torch.Tensor:
    """Gradient of a pair whose chosen and rejected answers are the same, the reference elsewhere."""
    return flat(gradient(method, models, twins(models)))


def same_known_answer(method: Method, models: Models) -> torch.Tensor:
    """As `same_answer`, on the rows that the policy surely prefers to the reference's weights."""
    batch = twins(models)
    views = {"policy": plain(batch, grad=False), "reference": plain(batch, "initial")}
    scores = models.scores(views, batch)
    margin = (scores["policy"].logp - scores["reference"].logp).sum(1)
    return flat(
        gradient(method, models, batch.select((margin > 1e-3).nonzero().flatten().tolist()))
    )


def no_success(method: Method, models: Models) -> torch.Tensor:
    """Gradient when no answer succeeds, all earn the same, and the task says nothing."""
    task = replace(toy_task(), reward=lambda problems, texts: [0.25] * len(texts))
    batch = grade(method.rollout(task.train, models, task, SEED), models)
    for view in method.views(batch, models).values():
        assert models[view.role]
    perturb(models.policy)
    return flat(gradient(method, models, batch))


def deaf_teacher(method: Method, models: Models) -> torch.Tensor:
    """Gradient when the teacher has the student's weights, and what it is told is left out."""
    task = toy_task(told=False)
    task = replace(task, told=lambda problem, kind, text: task.prompt(problem))
    return flat(gradient(method, models, method.rollout(task.train, models, task, SEED)))


def by_heart(method: Method, models: Models) -> torch.Tensor:
    """Gradient when the text is known by heart, and all guesses about it earn the same."""
    batch = rows_of([2, 3], [0.5, 0.5], kind=[1.0, 0.0])
    targets = torch.nn.functional.one_hot(batch.ids[batch.own], 3)
    logits = (60.0 * targets).double().requires_grad_()
    scores = about(batch, logits)
    batch = method.credit(batch.put(raw=scores.logp.detach()), models)
    values = method.loss({"policy": scores}, batch)
    return torch.autograd.grad((values * method.weigh(batch)).sum(), logits)[0]


def sure(method: Method, models: Models) -> torch.Tensor:
    """Gradient when the policy is certain of every token."""
    with torch.no_grad():
        models.policy.model.lm_head.weight *= 1e5
    task = toy_task()
    batch = method.rollout(task.train, models, task, SEED)
    if "reward" not in batch.streams:
        batch = grade(batch, models)
    return flat(gradient(method, models, batch))


def mute(method: Method, models: Models) -> None:
    """Networks beside the policy that say 0 of everything."""
    for each in method.auxiliaries:
        with torch.no_grad():
            for weight in models.trained(each).network.parameters():
                weight.zero_()


def silent(method: Method, models: Models) -> torch.Tensor:
    """Gradient when nothing is earned, and the network beside the policy says 0 of every state."""
    mute(method, models)
    task = replace(toy_task(), reward=lambda problems, texts: [0.0] * len(texts))
    batch = grade(method.rollout(task.train, models, task, SEED), models)
    return flat(gradient(method, models, batch))


def unsure(method: Method, models: Models) -> torch.Tensor:
    """The policy's gradient while the token reward model says nothing of any token."""
    mute(method, models)
    task = toy_task(8)
    batch = method.rollout(task.train, models, task, SEED)
    return flat(gradients(method, models, batch).policy)


def no_fine(method: Method, models: Models) -> torch.Tensor:
    """The policy's gradient when all answers earn the same, and nothing is fined."""
    free = calls.method(method.name)(**{**(method.arguments or {}), "flow": 0.0})
    task = replace(toy_task(), reward=lambda problems, texts: [0.5] * len(texts))
    sample = getattr(method.rollout, "inner", method.rollout)
    batch = grade(sample(task.train, models, task, SEED), models)
    return flat(gradients(free, models, batch).policy)


def unrevealed(method, models):
    """Gradient when the teacher has the student's weights and sees what the student sees."""
    blind = calls.method(method.name)(**{**(method.arguments or {}), "reveal": 0.0})
    task = toy_task(8)
    return flat(gradient(blind, models, method.rollout(task.train, models, task, SEED)))


def equal_rewards_at_any_speed(method, models):
    """Gradient when all answers earn the same and speed counts nothing."""
    slow = calls.method(method.name)(**{**(method.arguments or {}), "alpha": 0.0})
    return equal_rewards(slow, models)


@dataclass(frozen=True)
class Row:
    """How the battery calls one method.

    Attributes:
        arguments: of the factory; small numbers, and settings that touch every part of the loss.
        fixed: the gradient at a point where it must vanish.
        run: arguments of a two-step run on the tiny model, replayed from its `run.json`.
        masked: it trains a masked model.
        pooled: what a token counts depends on all others of the batch, as by a quantile.
    """

    arguments: dict[str, Any]
    fixed: Callable[[Method, Models], torch.Tensor]
    run: dict[str, Any] = field(default_factory=dict)
    pooled: bool = False
    masked: bool = False

    def models(self, tokenizer) -> Models:
        return Models((random_masked if self.masked else random_qwen)(tokenizer))


def nothing_left(method: Method, models: Models) -> torch.Tensor:
    """The weights that are left when all answers to a question earn the same: no row has one."""
    task = replace(toy_task(), reward=lambda problems, texts: [0.5] * len(texts))
    batch = grade(method.rollout(task.train, models, task, SEED), models)
    with torch.no_grad():
        credited = method.credit(batch, models)
    assert len(batch) and not len(credited)
    return method.weigh(credited).sum()


def all_wrong(method: Method, models: Models) -> torch.Tensor:
    """Gradient when no answer is right."""
    task = replace(toy_task(), correct=lambda problem, text: False)
    batch = grade(method.rollout(task.train, models, task, SEED), models)
    return flat(gradient(method, models, batch))


SAMPLED = {
    "divergence": "reverse", "support": "sampled", "estimator": "policy_gradient",
    "ratio_clip": 1.5, "discount": 0.5,
}  # fmt: skip
LISTED = {
    "divergence": "jsd", "rescale": True, "support": "union", "k": 5, "clip": 0.01,
    "clip_kind": "symmetric", "ratio_clip": 1.5,
}  # fmt: skip
RAW = {"support": "teacher", "k": 5, "form": "raw", "estimator": "policy_gradient"}
ROWS = {
    "sft": Row({}, certain),
    "rft": Row({"n": 6, "length": 5, "keep": 2}, certain, {"n": 4, "length": 12, "least": 0.1}),
    "grpo": Row(
        {"n": 3, "length": 5, "kl": 0.1, "clip": 0.05}, equal_rewards, {"n": 4, "length": 12}
    ),
    "grpo: corrected": Row(
        {
            "n": 3, "length": 5, "correct": "sequence", "cap": 1.1, "top_k": 6, "epochs": 2,
            "kl": 0.1,
        },
        equal_rewards,
        {"n": 4, "length": 12},
    ),
    "grpo: bounded": Row(
        {
            "n": 3, "length": 5, "dual": 1.05, "clip": 0.02, "eps": 1e-6, "normalise": "sum",
            "mask_truncated": True,
        },
        equal_rewards, {"n": 4, "length": 12, "mask_truncated": True, "entropy": 0.01},
    ),
    "diffu_grpo": Row(
        {"n": 3, "length": 5, "steps": None, "block": 2, "prompt": 0.3, "kl": 0.1, "clip": 0.05},
        equal_rewards, {"n": 4, "length": 8, "epochs": 2, "steps": None}, masked=True,
    ),
    "wd1": Row(
        {"n": 3, "length": 5, "steps": None, "block": 2, "prompt": 0.3}, equal_rewards,
        {"n": 4, "length": 8, "epochs": 2, "steps": None}, masked=True,
    ),
    "spg": Row(
        {"n": 3, "length": 5, "steps": None, "block": 2, "prompt": 0.3}, equal_rewards,
        {"n": 4, "length": 8, "epochs": 2, "steps": None, "beta": 1.0}, masked=True,
    ),
    "espo": Row(
        {"n": 3, "length": 5, "steps": None, "block": 2, "kl": 0.1, "scale": "std"},
        equal_rewards, {"n": 4, "length": 8, "epochs": 2, "steps": None}, masked=True,
    ),
    "just_grpo": Row(
        {"n": 3, "length": 5, "kl": 0.1, "epochs": 2, "clip": 0.05}, equal_rewards,
        {"n": 4, "length": 8}, masked=True,
    ),
    "masked_sft": Row({"length": None}, certain, {}, masked=True),
    "masked_sft: pretrain": Row(
        {"length": 16, "draws": 2, "noise": "elbo", "normalise": "token", "pretrain": True},
        certain, {"pretrain": True, "draws": 2}, masked=True,
    ),
    "dcolt": Row(
        {"n": 3, "length": 6, "steps": 3, "block": None, "clip": 0.05}, equal_rewards,
        {"n": 4, "length": 8, "steps": 4, "head_lr": 1e-3}, masked=True,
    ),
    "dcolt: blocks": Row(
        {"n": 3, "length": 6, "steps": 4, "block": 3}, equal_rewards,
        {"n": 4, "length": 8, "steps": None, "block": 8}, masked=True,
    ),
    "speed_rl": Row(
        {"n": 3, "length": 6, "alpha": 0.5}, equal_rewards_at_any_speed,
        {"n": 4, "length": 8}, masked=True,
    ),
    "d_opsd": Row(
        {"n": 4, "length": 5, "steps": None, "block": 2, "reveal": 0.5, "k": 5},
        unrevealed, {"n": 4, "length": 8, "steps": None, "least": 0.25}, masked=True,
    ),
    "d_opsd: solution": Row(
        {
            "n": 4, "length": 5, "steps": 3, "block": None, "reveal": 0.5, "source": "solution",
            "divergence": "jsd", "support": "full", "form": "tail", "clip": 2.0, "positions": 1,
            "least": 0.5,
        },
        unrevealed,
        {
            "n": 4, "length": 8, "steps": None, "block": None, "source": "solution", "least": 0.1,
            "teacher": "ema:0.5",
        },
        masked=True,
    ),
    "igpo": Row(
        {
            "n": 3, "length": 5, "steps": None, "block": 2, "piece_low": 1, "piece_high": 2,
            "hint_low": 0.5, "hint_high": 0.9, "replaced": 0.7, "clip": 0.05, "kl": 0.1,
            "learned": 0.5,
        },
        equal_rewards,
        {"n": 4, "length": 8, "steps": None, "piece_low": 1, "piece_high": 2, "epochs": 2},
        pooled=True, masked=True,
    ),
    "mdpo": Row(
        {"n": 3, "length": 5, "steps": 3, "block": None, "kept": 2, "kl": 0.1, "clip": 0.05},
        equal_rewards, {"n": 4, "length": 8, "steps": 4, "kept": 2}, masked=True,
    ),
    "trace_rl": Row(
        {"n": 3, "length": 5, "steps": None, "block": 2, "shrink": 2, "kl": 0.1, "clip": 0.05},
        equal_rewards, {"n": 4, "length": 8, "steps": None}, masked=True,
    ),
    "dr_grpo": Row({"n": 3, "length": 5}, equal_rewards, {"n": 4, "length": 12}),
    "dapo": Row(
        {"n": 3, "length": 5, "waves": 2}, equal_rewards, {"n": 4, "length": 12, "overlong": 0.5}
    ),
    "gspo": Row(
        {"n": 3, "length": 5, "clip": 0.02, "clip_high": 0.02}, equal_rewards,
        {"n": 4, "length": 12},
    ),
    "gspo: token": Row(
        {"n": 3, "length": 5, "level": "sequence_token", "correct": "token", "cap": 1.1},
        equal_rewards, {"n": 4, "length": 12, "level": "sequence_token"},
    ),
    "cispo": Row(
        {"n": 3, "length": 5, "clip": 0.02, "clip_high": 0.02}, equal_rewards,
        {"n": 4, "length": 12, "waves": 2},
    ),
    "rloo": Row(
        {"n": 3, "length": 5, "kl": 0.1, "top_k": 6}, equal_rewards,
        {"n": 4, "length": 12, "kl": 0.1},
    ),
    "reinforce_pp": Row(
        {"n": 1, "length": 5, "kl": 0.1}, equal_rewards, {"n": 1, "length": 12}, pooled=True
    ),
    "reinforce_pp: baseline": Row(
        {"n": 3, "length": 5, "kl": 0.1, "baseline": True}, equal_rewards,
        {"n": 4, "length": 12, "baseline": True, "gamma": 0.9}, pooled=True,
    ),
    "nft": Row(
        {"n": 3, "length": 5, "waves": 2}, equal_rewards, {"n": 4, "length": 12, "least": 0.1}
    ),
    "nft: root": Row(
        {"n": 3, "length": 5, "waves": 1, "omega": "root", "neg_weight": 0.5, "top_k": 6},
        equal_rewards, {"n": 4, "length": 12, "waves": 1},
    ),
    "otr": Row({}, certain),
    "thr": Row(
        {"n": 4, "length": 5, "kl": 0.1, "waves": 1}, equal_rewards, {"n": 4, "length": 12}
    ),
    "thr: seen": Row(
        {"n": 4, "length": 5, "kl": 0.0, "words": "seen", "p": -0.3, "tau": 0.0, "waves": 2},
        equal_rewards, {"n": 4, "length": 12, "words": "seen"},
    ),
    "tw_grpo": Row({"n": 3, "length": 5, "clip": 0.05}, equal_rewards, {"n": 4, "length": 12}),
    "tw_grpo: released": Row(
        {"n": 3, "length": 5, "apart": "released", "top_k": 6}, equal_rewards,
        {"n": 4, "length": 12, "apart": "released"},
    ),
    "lp_reg": Row(
        {"n": 3, "length": 5, "share": 0.4, "bound": 1.05}, equal_rewards,
        {"n": 4, "length": 12, "share": 0.2}, pooled=True,
    ),
    "lp_reg: sampled": Row(
        {"n": 3, "length": 5, "share": 0.4, "form": "sampled", "correct": "token", "cap": 1.1},
        equal_rewards, {"n": 4, "length": 12, "share": 0.2, "form": "sampled"}, pooled=True,
    ),
    "hapo": Row(
        {"n": 3, "length": 5, "clip": 0.02, "clip_high": 0.02, "waves": 1}, equal_rewards,
        {"n": 4, "length": 12, "gain": 0.3, "waves": 1}, pooled=True,
    ),
    "hapo: released": Row(
        {"n": 3, "length": 5, "legacy_sign": True, "waves": 1, "correct": None}, equal_rewards,
        {"n": 4, "length": 12, "legacy_sign": True, "waves": 1}, pooled=True,
    ),
    "ppo": Row(
        {"n": 2, "length": 5, "kl": 0.1, "gamma": 0.9, "lam": 0.8, "clip": 0.05}, silent,
        {"n": 2, "length": 12, "kl": 0.1}, pooled=True,
    ),
    "ppo: corrected": Row(
        {
            "n": 2, "length": 5, "head": "mlp", "role": "policy", "correct": "token", "cap": 1.1,
            "top_k": 6, "normalise": "sequence",
        },
        silent, {"n": 2, "length": 12, "role": "policy", "epochs": 2}, pooled=True,
    ),
    "macro_actions": Row(
        {"n": 2, "length": 6, "size": 2, "sigma": "position", "kl": 0.1}, silent,
        {"n": 2, "length": 12}, pooled=True,
    ),
    "macro_actions: random": Row(
        {"n": 2, "length": 6, "chunks": "random", "sigma": "unit", "kl": 0.1}, silent,
        {"n": 2, "length": 12, "chunks": "random"}, pooled=True,
    ),
    "macro_actions: perplexity": Row(
        {"n": 2, "length": 6, "chunks": "perplexity", "kl": 0.0}, silent,
        {"n": 2, "length": 12, "chunks": "perplexity"}, pooled=True,
    ),
    "poad": Row(
        {"tool": "toys:echo", "n": 2, "length": 4, "turns": 2, "entropy": 0.0, "kl": 0.1},
        silent,
        {"n": 2, "length": 12}, pooled=True,
    ),
    "tvm": Row({"n": 3, "length": 5}, silent, {"n": 4, "length": 12}),
    "oreal": Row(
        {"n": 4, "length": 5, "frozen": 0, "kl": 0.1}, unsure,
        {"n": 4, "length": 12, "frozen": 1}, pooled=True,
    ),
    "rlfr": Row(
        {"n": 3, "length": 5, "flow": 0.1, "blocks": 1, "most": 2}, no_fine,
        {"n": 4, "length": 12, "blocks": 1},
    ),
    "tempo": Row({"n": 3, "length": 5, "clip": 0.05}, equal_rewards, {"n": 4, "length": 12}),
    "tempo: waves": Row(
        {"n": 3, "length": 5, "waves": 2, "correct": "token", "cap": 1.1}, equal_rewards,
        {"n": 4, "length": 12, "waves": 2},
    ),
    "forking_tokens": Row(
        {"n": 3, "length": 5, "waves": 2, "share": 0.4}, equal_rewards, {"n": 4, "length": 12},
        pooled=True,
    ),
    "forking_tokens: random": Row(
        {
            "n": 3, "length": 5, "waves": 2, "share": 0.4, "choose": "random",
            "denominator": "kept",
        },
        equal_rewards, {"n": 4, "length": 12, "choose": "lowest", "denominator": "kept"},
        pooled=True,
    ),
    "d3s": Row(
        {
            "n": 3, "length": 5, "rows": 0.5, "rows_last": 0.5, "tokens": 0.4, "tokens_last": 0.4,
            "clip": 0.05,
        },
        equal_rewards, {"n": 4, "length": 12, "over": 2}, pooled=True,
    ),
    "d3s: sequence": Row(
        {
            "n": 3, "length": 5, "rows": 0.5, "rows_last": 0.5, "tokens": 0.4, "tokens_last": 0.4,
            "level": "sequence", "scale": "none",
        },
        equal_rewards, {"n": 4, "length": 12}, pooled=True,
    ),
    "ulorl": Row(
        {"n": 3, "length": 5, "budget": 5, "sure": 0.3, "sigma": 3.0}, nothing_left,
        {"n": 2, "length": 12, "budget": 6}, pooled=True,
    ),
    "ulorl: segment": Row(
        {
            "n": 3, "length": 5, "budget": 5, "sure": 0.3, "sigma": 3.0, "ratio": "segment",
            "clip": 0.05,
        },
        nothing_left, {"n": 2, "length": 12, "budget": 6, "ratio": "segment"}, pooled=True,
    ),
    "ttrl": Row(
        {"n": 4, "keep": 3, "length": 5, "kl": 0.1, "clip": 0.05}, equal_rewards,
        {"n": 4, "keep": 3, "length": 12},
    ),
    "evol_rl": Row(
        {"n": 4, "keep": 3, "length": 5, "kl": 0.1, "entropy": 0.1}, sure,
        {"n": 4, "keep": 3, "length": 12},
    ),
    "degrpo": Row(
        {
            "n": 4, "length": 5, "alpha": 0.3, "short": "M", "think": "x", "kl": 0.1, "clip": 0.05,
        },
        all_wrong, {"n": 4, "length": 12, "short": "1", "think": "2"},
    ),
    "degrpo: token": Row(
        {"n": 4, "length": 5, "alpha": 0.3, "short": "M", "think": "x", "normalise": "token"},
        all_wrong, {"n": 4, "length": 12, "short": "1", "think": "2"}, pooled=True,
    ),
    "opsd": Row({"n": 2, "length": 5, "divergence": "jsd"}, untold_teacher, {"length": 12}),
    "opsd: tokens": Row(
        {"n": 2, "length": 6, "tokens": "prefix:0.5 * position:1 * divergence:0.5"},
        untold_teacher,
        {"length": 12, "tokens": "entropy:0.5 * divergence:0.5"},
    ),
    "opsd: corrected": Row(
        {"n": 2, "length": 5, "correct": "mask", "cap": 1.1}, untold_teacher, {"n": 2, "length": 12}
    ),
    "opsd: sampled": Row({"n": 2, "length": 5, **SAMPLED}, untold_teacher, {"length": 12, **SAMPLED}),
    "opsd: list": Row({"n": 2, "length": 5, **LISTED}, untold_teacher, {"length": 12, **LISTED}),
    "opsd: raw": Row({"n": 2, "length": 5, **RAW}, untold_teacher, {"length": 12, **RAW}),
    "sdpo": Row({"n": 3, "length": 5}, no_success, {"n": 4, "length": 12}),
    "sdpo: mix": Row(
        {"n": 3, "length": 5, "mix": 0.9, "teacher": "trust:0.05", "top_k": 6, "cap": 1.1},
        no_success,
        {"n": 4, "length": 12, "mix": 0.9, "teacher": "trust:0.05"},
    ),
    "sdpo: reverse": Row(
        {"n": 3, "length": 5, "divergence": "reverse", "k": 5}, deaf_teacher, {"n": 4, "length": 12}
    ),
    "sdft": Row({"n": 2, "length": 5, "correct": "sequence"}, deaf_teacher, {"length": 12}),
    "op2sd": Row({"n": 2, "length": 5, "clip": 0.01}, deaf_teacher, {"length": 12}),
    "context_distillation": Row(
        {"n": 2, "length": 5, "text": "briefly"}, deaf_teacher, {"length": 12, "text": "briefly"}
    ),
    "gkd": Row(
        {"n": 2, "length": 5, "on_policy": 0.5}, untold_teacher, {"length": 12, "on_policy": 0.5}
    ),
    "gkd: corrected": Row({"n": 2, "length": 5, "correct": "token"}, live_teacher, {"length": 12}),
    "minillm": Row({"n": 2, "length": 5}, live_teacher, {"length": 12, "epochs": 2}),
    "minillm: sums": Row(
        {"n": 2, "length": 5, "share": 0.0, "mean_return": False}, live_teacher,
        {"length": 12, "share": 0.0},
    ),
    "on_policy_distillation": Row(
        {"n": 2, "length": 5, "discount": 0.5, "top_k": 6}, live_teacher,
        {"length": 12, "context": "solution"},
    ),
    "exopd": Row(
        {"n": 2, "length": 5, "support": "full", "estimator": "direct", "correct": "token"},
        live_teacher, {"length": 12, "context": "solution"},
    ),
    "aligndistil": Row(
        {"n": 2, "length": 5, "reverse": "policy", "on_policy": 0.5}, live_teacher,
        {"length": 12, "reverse": "ema:0.5"},
    ),
    "entropy_aware_opd": Row(
        {"n": 2, "length": 5, "unsure": 4.0, "support": "union", "k": 5}, live_teacher,
        {"length": 12, "context": "solution"},
    ),
    "rlsd": Row({"n": 3, "length": 5}, equal_rewards, {"n": 4, "length": 12}),
    "dopd": Row({"n": 2, "length": 5, "gap": 0.05, "sure": 0.1}, live_teacher, {"length": 12}),
    "distillspec": Row(
        {"n": 2, "length": 5, "teacher": "initial", "divergence": "jsd"}, untold_teacher,
        {"length": 12, "divergence": "tv"},
    ),
    "distillspec: corrected": Row(
        {
            "n": 2, "length": 5, "teacher": "initial", "divergence": "reverse", "correct": "token",
            "cap": 1.1, "normalise": "token",
        },
        untold_teacher, {"n": 2, "length": 12, "teacher": "ema:0.5"},
    ),
    "distillspec: mixture": Row(
        {
            "n": 2, "length": 5, "teacher": "ema:0.5", "divergence": "forward",
            "source": "mixture",
        },
        untold_teacher, {"length": 12, "source": "mixture"},
    ),
    "distillspec: given": Row(
        {"teacher": "initial", "source": "given", "temperature": 0.8}, untold_teacher,
        {"source": "given"},
    ),
    "spin": Row(
        {"length": 5, "opponent": "initial"}, same_answer, {"length": 12, "opponent": "copy:1"}
    ),
    "spin: hinge": Row(
        {"length": 5, "opponent": "initial", "kind": "hinge"}, same_answer,
        {"length": 12, "kind": "hinge"},
    ),
    "seppo": Row(
        {"length": 5, "past": "initial"}, same_known_answer,
        {"length": 12, "past": "initial,copy:1"},
    ),
    "opsa": Row({"n": 2, "length": 5, "share": 0.4}, sure, {"n": 2, "length": 12}, pooled=True),
    "opsd_paper": Row({"length": 5}, untold_teacher, {"length": 12}),
    "dpo": Row({"n": 4, "length": 5, "smoothing": 0.1}, same_answer, {"n": 4, "length": 12}),
    "verifree": Row(
        {"n": 6, "length": 16, "marker": "K", "bridge": "!"}, sure,
        {"n": 4, "length": 24, "marker": "=", "bridge": "", "occurrence": "last"},
    ),
    "brpo": Row(
        {
            "n": 3, "budgets": "1,4", "summaries": 2, "length_summary": 3, "after": "=",
            "clip": 0.05,
        },
        equal_rewards,
        {"n": 2, "budgets": "4,8,12", "summaries": 1, "length_summary": 6, "after": "="},
    ),
    "capo": Row(
        {
            "n": 3, "length": 6, "critic": "critics:odd", "mark": "K", "vote": "average",
            "clip": 0.05,
        },
        sure, {"n": 4, "length": 12, "correct": "token"},
    ),
    "capo: self": Row(
        {
            "n": 3, "length": 5, "critic": "self,arithmetic", "k": 2, "length_critique": 8,
            "vote": "union",
        },
        equal_rewards, {"n": 4, "length": 12, "critic": "self", "k": 2, "length_critique": 8},
    ),
    "rmt": Row(
        {"n": 3, "budget": 3, "marker": "K", "ntp": 0.3, "clip": 0.05}, by_heart,
        {"n": 3, "budget": 3, "marker": "=", "over": 2, "epochs": 2}, pooled=True,
    ),
    "rmt: guesses": Row(
        {"n": 3, "positions": 2, "budget": 3, "marker": "K", "ntp": 0.0, "weight": 0.5},
        equal_rewards, {"n": 4, "budget": 3, "marker": "=", "ntp": 0.0},
    ),
}  # fmt: skip
"""By method; a further row of the same one has a colon and what is special."""
METHODS = calls.names("methods")


def method_of(row: str) -> str:
    return row.partition(":")[0]


def test_every_method_has_a_row():
    assert set(METHODS) == set(map(method_of, ROWS)), "a method is one file and one row of ROWS"


# ------------------------------------------------------------------ helpers


def gradient(
    method: Method, models: Models, batch: Batch, micro_rows: int | None = None
) -> list[torch.Tensor]:
    """The gradients that one update on this batch would use, those beside the policy included."""
    found = gradients(method, models, batch, micro_rows)
    return [*found.policy, *found.auxiliaries]


def flat(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts])


def is_beside(method: Method, models: Models, batch: Batch) -> bool:
    """Whether it trains a network beside the policy and nothing else."""
    return bool(method.auxiliaries) and not method.views(batch, models)["policy"].grad


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    found, expected = flat(found), flat(expected)
    assert expected.norm() > 1e-6, "two zeros agree about nothing"
    assert float((found - expected).norm() / expected.norm()) < EXACT


@pytest.fixture(params=ROWS)
def case(request, tokenizer):
    return made(request.param, tokenizer)


def made(name: str, tokenizer) -> tuple[Method, Models, Batch]:
    """A row of the battery: a batch drawn before the policy moved a little."""
    method = replace(calls.method(method_of(name))(**ROWS[name].arguments), epochs=1)
    models = ROWS[name].models(tokenizer)
    task = toy_task(16)
    problems = task.train[: method.rollout.problems(8 * method.rollout.n)]
    batch = method.rollout(problems, models, task, SEED)
    if "raw" in batch.streams and "reward" not in batch.streams:
        batch = grade(batch, models)
    for role in method.roles:
        assert models[role]
    with torch.no_grad():
        credited = method.credit(batch, models)
    for view in method.views(credited, models).values():
        assert models[view.role]
    perturb(models.policy)
    lengths = batch.own.sum(1)
    assert len(batch) >= 4 and int(lengths.min()) < int(lengths.max())
    return method, models, batch


# ------------------------------------------------------------------ methods


def test_micro_batches_do_not_matter(case):
    method, models, batch = case
    whole = gradient(method, models, batch)
    least = int(batch.group.unique(return_counts=True)[1].max()) if method.unit == "group" else 1
    for rows in {(len(batch) + 1) // 2, least}:
        assert_same(gradient(method, models, batch, max(rows, least)), whole)


def test_padding_does_not_matter(case):
    method, models, batch = case
    assert_same(gradient(method, models, padded(batch)), gradient(method, models, batch))


def test_row_order_does_not_matter(case):
    method, models, batch = case
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).tolist()
    assert order != sorted(order)
    assert_same(gradient(method, models, batch.select(order)), gradient(method, models, batch))


def test_packing_does_not_matter(case, monkeypatch):
    """Prompts of the battery are short, and so is the least prefix that is shared here."""
    method, models, batch = case
    monkeypatch.setattr("autodidact.pack.SHARE", 1)
    # A method that trains only a network beside the policy reads without gradient.
    column = (
        "teacher_forward"
        if is_beside(method, models, method.credit(batch, models))
        else "student_forward"
    )
    before = getattr(models.ledger, column)
    packed, fed = gradient(method, models, batch), getattr(models.ledger, column) - before
    models.pack = False
    assert_same(packed, gradient(method, models, batch))
    alone = getattr(models.ledger, column) - before - fed
    assert fed < alone if models.policy.shares else fed == alone, "prefixes were shared"


def test_group_numbers_do_not_matter(case):
    method, models, batch = case
    assert_same(gradient(method, models, renumbered(batch)), gradient(method, models, batch))


def test_more_rows_of_another_batch_are_the_weighted_sum(case, request):
    """Weights are those of the whole step: joined batches average by rows or by tokens."""
    if ROWS[request.node.callspec.params["case"]].pooled:
        pytest.skip("what a token counts depends on all others: halves are no parts")
    method, models, batch = case
    halves = batch.split((len(batch) + 1) // 2, "group")
    assert len(halves) == 2
    credited = [method.credit(half, models) for half in halves]
    whole = method.credit(join(halves), models)
    weight = method.weigh(whole)
    shares = []
    for half, place in zip(credited, weight.split([len(c) for c in credited]), strict=True):
        own = method.weigh(half)
        place = place[:, : own.shape[1]] if own.dim() > 1 else place
        ratio = (place / own)[own > 0]
        assert ratio.max() - ratio.min() < 1e-6 * ratio.max(), "a common factor for every value"
        shares.append(float(ratio[0]))

    def pull(rows: Batch) -> list[torch.Tensor]:
        """The policy's, as what a network beside it learns from may be another share of rows."""
        found = gradients(method, models, rows)
        return found.policy or found.auxiliaries

    parts = [pull(half) for half in halves]
    total = [
        sum(s * g for s, g in zip(shares, each, strict=True)) for each in zip(*parts, strict=True)
    ]
    found, expected = flat(pull(join(halves))), flat(total)
    assert float((found - expected).norm() / expected.norm()) < 1e-6  # weights are float32


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_gradients_are_finite_for_flat_and_for_extreme_laws(case, size):
    method, models, batch = case
    with torch.no_grad():
        models.policy.model.lm_head.weight *= size
    assert flat(gradient(method, models, batch)).isfinite().all()


def test_nothing_is_mutated_and_no_hidden_randomness_is_used(case):
    method, models, batch = case
    before, state = photograph(batch), torch.get_rng_state()
    weights = [p.detach().clone() for p in models.policy.model.parameters()]
    problems = list(batch.task.train)
    gradient(method, models, batch, 2 if method.unit == "row" else None)
    method.rollout(
        batch.task.train[: method.rollout.problems(method.rollout.n)], models, batch.task, 1
    )
    after = photograph(batch)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(state, torch.get_rng_state())
    assert problems == list(batch.task.train)
    now = models.policy.model.parameters()
    assert all(torch.equal(old, new) for old, new in zip(weights, now, strict=True))


def test_credit_and_weights_carry_no_gradient(case):
    method, models, batch = case
    seen = []

    def credit(batch, models):
        seen.append(torch.is_grad_enabled())
        return method.credit(batch, models)

    gradient(replace(method, credit=credit), models, batch)
    assert seen == [False]
    with torch.no_grad():
        credited = method.credit(batch, models)
    assert not any(stream.requires_grad for stream in credited.streams.values())
    assert not method.weigh(credited).requires_grad


def test_only_the_views_that_say_so_carry_gradient(case):
    """Every view but the policy's is detached: gradients reach the live weights only."""
    method, models, batch = case
    batch = method.credit(batch, models)
    views = method.views(batch, models)
    trained = not is_beside(method, models, batch)
    assert views["policy"].grad == trained
    assert not any(v.grad for k, v in views.items() if k.partition(":")[0] != "policy")
    for name, view in views.items():
        scores = models.score(view, batch)
        assert scores.logp.requires_grad == (trained and name.partition(":")[0] == "policy")


def test_the_signal_is_about_own_tokens(case):
    method, models, batch = case
    batch = method.credit(batch, models)
    scores = {name: models.score(view, batch) for name, view in method.views(batch, models).items()}
    signal = method.signal(scores, batch, method.loss(scores, batch))
    assert signal.shape == batch.ids.shape and not signal.requires_grad
    assert not signal[~batch.own].any() and signal.isfinite().all()


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_vanishes_at_the_stated_fixed_point(name, tokenizer):
    row = ROWS[name]
    arguments = {**row.arguments, "kl": 0.0} if "kl" in row.arguments else row.arguments
    arguments = {**arguments, "smoothing": 0.0} if "smoothing" in arguments else arguments
    method = calls.method(method_of(name))(**arguments)
    found = row.fixed(method, row.models(tokenizer))
    assert float(found.abs().max()) < 1e-12


GRIDS = Call("sudoku", {"wording": "terse", "canvas": True, "train": 30, "test": 6})


@pytest.mark.parametrize("name", [name for name in ROWS if ":" not in name])
def test_a_run_replays_from_its_run_file(name, tmp_path):
    spec = Spec(
        Call(method_of(name), ROWS[name].run),
        GRIDS if ROWS[name].masked else Call("tiny_calculation", {"train": 30, "test": 6}),
        Run(steps=2, rows=8, lr=1e-3, micro_rows=5 if name != "dpo" else 8, eval_points=0,
            eval_problems=1, eval_samples=2, eval_length=12, seed=5),
        model="tiny_diffusion_early" if ROWS[name].masked else "tiny",
    )  # fmt: skip
    first = execute(spec, tmp_path / "first")
    written = json.loads((first / "run.json").read_text())
    second = execute(Spec.of(written["spec"]), tmp_path / "second")
    assert measured(first) == measured(second)
    assert len([line for line in measured(first) if line["kind"] == "step"]) == 2
    assert_equal_weights(first, second)


# ------------------------------------------------------------------ resuming


class Pull(Watcher):
    """Pulls the plug after a step."""

    def __init__(self, after: int):
        self.after = after

    def step(self, line, fraction):
        if line["step"] == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("call", "lora"),
    [
        (Call("opsd", {"length": 12, "teacher": "initial", "context": "other"}), 4),
        (Call("opsd", {"length": 12, "teacher": "ema:0.5"}), 4),
        (Call("grpo", {"length": 12, "n": 4, "kl": 0.05}), 0),
        (Call("hapo", {"length": 12, "n": 4, "waves": 1}), 0),
    ],
    ids=str,
)
def test_a_resumed_run_is_the_uninterrupted_one(call, lora, tmp_path):
    spec = Spec(
        call,
        Call("tiny_calculation", {"train": 20, "test": 4}),
        Run(steps=4, rows=8, lr=1e-3, schedule="cosine", warmup=2, eval_points=1, eval_problems=2,
            eval_samples=2, eval_length=8, save_every=2),
        lora=lora,
    )  # fmt: skip
    whole = execute(spec, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        execute(spec, tmp_path / "broken", watcher=Pull(after=3))
    assert len(complete_checkpoints(tmp_path / "broken" / "checkpoints")) == 1
    resumed = execute(spec, tmp_path / "broken", resume=True)
    assert measured(whole) == measured(resumed)
    assert_equal_weights(whole, resumed)
    assert (whole / "samples.jsonl").read_text() == (resumed / "samples.jsonl").read_text()


def measured(folder) -> list[dict[str, Any]]:
    """The lines of a run without what a clock or the machine decides."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["ledger"]["seconds"], line["ledger"]["peak_bytes"]
    return lines


def assert_equal_weights(one, other) -> None:
    from safetensors.torch import load_file

    one, other = (complete_checkpoints(folder / "checkpoints")[-1] for folder in (one, other))
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert len(files) >= 2
    for name in files:
        left, right = load_file(one / name), load_file(other / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name


# ------------------------------------------------------------------ rollouts


ROLLOUTS = {
    "Reference": lambda: Reference(6, 16, "K", "!"),
    "Budgets": lambda: Budgets(2, (1, 4), 2, 3, "="),
    "Positions": lambda: Positions(3, 2, 3, marker="K"),
    "Sample": lambda: Sample(3, 6, Law(0.9)),
    "Given": lambda: Given(),
    "GivenCanvas": lambda: GivenCanvas(9),
    "Tries": lambda: Tries(3, 6, 0.5, engine=Denoise(3)),
    "Inpaint": lambda: Inpaint(3, 6, hints=Hints(0.5, 0.9, 1, 2), engine=Denoise(3)),
    "Opened": lambda: Opened(
        3, 6, Law(0.9), Unmask(3), Auxiliary("opener", Opener, ordered_loss, choice_mean)
    ),
    "GivenPairs": lambda: GivenPairs(),
    "BestOf": lambda: BestOf(6, 6, keep=2),
    "BestAndWorst": lambda: BestAndWorst(4, 6),
    "WithSpread": lambda: WithSpread(Sample(3, 6), waves=2),
    "Speculative": lambda: Speculative(3, 6),
    "Votes": lambda: Votes(4, 6, 3),
    "Beam": lambda: Beam(n=2, width=3, branch=2, step=2, length=6),
    "Contrast": lambda: Contrast(6, 6),
    "Heating": lambda: Heating(3, 6, Law(0.9), gain=0.0),
    "Tree": lambda: Tree(2, (2, 4), 6),
    "Splice": lambda: Splice(2, 3, "Wait", 3),
    "Turns": lambda: Turns(lambda problem, said: "so", n=2, turns=2, length=3),
    "Segments": lambda: Segments(3, 6, 6),
    "Mixture": lambda: Mixture(Sample(3, 6, Law(0.9)), 0.5),
    "TeacherMixed": lambda: TeacherMixed(3, 6, Law(0.9)),
    "FromRole": lambda: FromRole(3, 6, Law(0.9), "initial", 0.5),
    "SolutionPairs": lambda: SolutionPairs(6, Law(), ("initial", "copy:1")),
}
GIVEN = {"Reference": "!", "Splice": "Wait", "Turns": "so"}
"""Text that a rollout puts between the tokens of the policy."""


def defined(package: str, wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """The public names of that kind that the modules of a package define."""
    found = {}
    for name in calls.names(package):
        module = importlib.import_module(f"autodidact.{package}.{name}")
        for key, value in vars(module).items():
            if not key.startswith("_") and getattr(value, "__module__", "") == module.__name__:
                found |= {key: value} if wanted(value) else {}
    return found


def test_every_rollout_has_a_row():
    kinds = defined("rollouts", lambda x: inspect.isclass(x) and issubclass(x, Rollout))
    assert set(kinds) == set(ROLLOUTS)


MASKED = ("GivenCanvas", "Inpaint", "Opened", "Tries")
"""Rollouts of masked models."""


@pytest.fixture(params=ROLLOUTS)
def rollout(request):
    return ROLLOUTS[request.param]()


@pytest.fixture
def models(rollout, tokenizer):
    make = random_masked if type(rollout).__name__ in MASKED else random_qwen
    return Models(make(tokenizer))


def test_a_rollout_is_a_function_of_problems_weights_and_seed(rollout, models):
    task = toy_task(4)
    state = torch.get_rng_state()
    one, two, other = (rollout(task.train, models, task, seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    first, second = photograph(one), photograph(two)
    assert len(one) and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(one.ids, other.ids) == (not rollout.draws)


def test_rows_of_a_rollout_are_prompts_with_own_completions(rollout, models):
    if type(rollout).__name__ in ("Budgets", "Positions"):
        pytest.skip("other tokens than the policy's come first: see their own tests")
    task, lm = toy_task(4), models.policy
    batch = rollout(task.train, models, task, 1)
    assert not any(stream.requires_grad for stream in batch.streams.values())
    for row, problem in enumerate(batch.rows):
        prompt = lm.render(task.prompt(problem))
        ids, own = (
            batch.ids[row][batch.real[row]].tolist(),
            batch.own[row][batch.real[row]].tolist(),
        )
        assert ids[: len(prompt)] == prompt
        assert own[: len(prompt)] == [False] * len(prompt) and own[len(prompt)]
        if not lm.causal:  # what it wrote behind the end of the text is not own
            own = own[: len(own) - own[::-1].index(True)]
        between = [word for word, chosen in zip(ids, own, strict=False) if not chosen]
        assert lm.decode(between[len(prompt) :]) in ("", GIVEN.get(type(rollout).__name__, ""))
    for number in batch.group.unique().tolist():
        assert (
            len(
                {
                    p.question
                    for p, g in zip(batch.rows, batch.group.tolist(), strict=True)
                    if g == number
                }
            )
            == 1
        )


def test_a_rollout_does_not_depend_on_the_other_problems(rollout, models):
    task = toy_task(4)
    waves = getattr(rollout, "waves", 1)
    together = rollout(task.train * waves, models, task, 1)
    by_question: dict[str, list[list[int]]] = {}
    for row, problem in enumerate(together.rows):
        by_question.setdefault(problem.question, []).append(
            together.ids[row][together.own[row]].tolist()
        )
    for problem in task.train:
        alone = rollout([problem] * waves, models, task, 1)
        found = [alone.ids[row][alone.own[row]].tolist() for row in range(len(alone))]
        # Later waves may ask a question again.
        assert found == by_question.get(problem.question, [])[: len(found)]
        assert bool(found) == (problem.question in by_question)


def test_a_rollout_says_how_many_problems_a_step_takes(rollout):
    waves = getattr(rollout, "waves", 1)
    assert rollout.problems(4 * rollout.n) == 4 * waves
    if rollout.n > 1:
        with pytest.raises(ValueError, match="multiple"):
            rollout.problems(4 * rollout.n + 1)


# ------------------------------------------------------------------ credits and losses


def words(batch: Batch) -> torch.Tensor:
    """A law over three words for each own token, a function of the token: [N, 3] logits."""
    return torch.stack([(k * batch.ids[batch.own]).double().sin() for k in (1, 2, 3)], -1)


def student_and_teacher(batch: Batch) -> tuple[Scores, Scores]:
    return about(batch, words(batch)), about(batch, words(batch).flip(-1))


def compared(batch: Batch) -> Scores:
    """A student's scores after a divergence to the teacher."""
    student, teacher = student_and_teacher(batch)
    student.divergence(teacher, Divergence("forward"))
    return student


def stepped(b):
    """Each own token is written at a step of its own, from left to right; all can be scored."""
    return b.put(
        order=b.own.cumsum(1) * b.own, canvas=b.own.double(), rank=b.own.long(),
        reward=b.take("reward").nan_to_num(0.25),
    )  # fmt: skip


def by_row(b, found, values):
    """The sums [B] of values [R] of canvases."""
    return values.double().new_zeros(len(b)).index_add(0, found.take("trace"), values.double())


def told(b, alone=False):
    """Canvases with what a network reads and chose, and a network that repeats its first input."""
    steps = choices(stepped(b), 2, "none")
    seen = steps.ids.double() / 3 + 0.1
    return steps.put(sure=seen, states=seen[..., None])


SEEN = Divergence("reverse", support=Support("sampled"))
CREDITS = {
    "written_at": lambda f, b: f(stepped(b)).double(),
    "visited": lambda f, b: by_row(b, v := f(stepped(b)), v.own.sum(1)),
    "here": lambda f, b: by_row(b, v := visited(stepped(b)), f(v, 2).sum(1)),
    "per_step": lambda f, b: by_row(b, v := visited(stepped(b)), f(v) * v.take("step")),
    "steps_mean": lambda f, b: by_row(b, v := visited(stepped(b)), (f(v) * v.take("logp")).sum(1)),
    "step_values": lambda f, b: by_row(
        b, v := visited(stepped(b)), f(v.put(reward=v.take("logp").sum(1))) * v.take("step")
    ),
    "step_advantage": lambda f, b: by_row(
        b,
        v := visited(stepped(b)),
        f(v.put(reward=v.take("logp").sum(1) * v.take("step"))).take("advantage").sum(1),
    ),
    "widest_steps": lambda f, b: by_row(b, v := f(visited(stepped(b)), 2), v.take("step")),
    "choices": lambda f, b: by_row(b, v := f(stepped(b), 2), v.take("advantage").sum(1)),
    "per_action": lambda f, b: by_row(b, v := choices(stepped(b), 2), f(v).sum(1)),
    "choice_mean": lambda f, b: by_row(b, v := choices(stepped(b), 2), f(v)),
    "ordered_loss": lambda f, b: by_row(b, v := told(b), f(lambda *a: a[0][..., 0], v)),
    "chance_loss": lambda f, b: by_row(b, v := told(b), f(lambda *a: a[0], v)),
    "faster": lambda f, b: f(stepped(b).put(order=b.own.double()), 0.5).take("reward"),
    "plackett_luce": lambda f, b: f(
        b.take("logp"), b.own, torch.where(b.own, b.own.cumsum(1), 0) * (b.take("raw") > -0.2)
    ),
    "opened_at_once": lambda f, b: f(b.take("logp"), b.own, b.own & (b.take("raw") > 0)),
    "gumbel": lambda f, b: f(b.take("logp").sigmoid()) * b.own,
    "prior_of": lambda f, b: f("linear", (1, 2, 5)).expand(len(b), 3)[:, 0],
    "budget_relative": lambda f, b: f(
        torch.stack([k * b.take("reward").nan_to_num(0.3) for k in (1.0, 0.5)], 1),
        torch.tensor([0.25, 0.75], dtype=torch.float64),
        b.group,
    )[:, 1],
    "voted": lambda f, b: f(b.take("logp").sigmoid() * b.own, "average"),
    "fined": lambda f, b: f(b.take("reward").nan_to_num(), b.take("logp"), b.own),
    "group_sum": lambda f, b: f((b.take("logp") * b.own).sum(1), b.group),
    "group_mean": lambda f, b: f(b.take("reward"), b.group),
    "group_std": lambda f, b: f(b.take("reward"), b.group),
    "group_advantage": lambda f, b: f(b).take("advantage"),
    "prefixes": lambda f, b: node_means(f(b), b.take("reward"))[0],
    "node_means": lambda f, b: sum(f(prefixes(b), b.take("reward"))),
    "at_end": lambda f, b: f(b.take("reward"), b.own),
    "gae": lambda f, b: sum(f(b.take("logp"), b.take("raw"), b.own, 0.9, 0.8)),
    "to_go": lambda f, b: f(b.take("logp"), b.own, 0.9),
    "k1_penalty": lambda f, b: f(b, b.take("logp"), b.take("raw")),
    "whiten": lambda f, b: f(b.take("logp"), b.own),
    "minmax": lambda f, b: f(b.take("logp"), b.own) + f(b.take("raw"), b.own, b.group),
    "token_group_mean_std": lambda f, b: sum(f(b.take("logp"), b.own, b.group)),
    "highest": lambda f, b: f(b.take("logp"), b.own, Fraction(1, 2)).float(),
    "quantile": lambda f, b: f(b.take("logp"), b.own, 0.3) * b.own,
    "everywhere": lambda f, b: f(b.take("logp")[b.own]).max() * b.own,
    "chunks": lambda f, b: f(b.own, 2).number,
    "cut_at": lambda f, b: f(b.own, b.take("logp") > 0).number,
    "scored": lambda f, b: f(b).float(),
    "token_rewards": lambda f, b: f(b, None, 0.0),
    "belief": lambda f, b: f(b.take("raw"), b.own),
    "off_flow": lambda f, b: f(b.take("raw").abs(), b.own, 0.3, 2),
    "flow_penalty": lambda f, b: f(b.take("raw").abs(), b.own, 0.5),
    "normal": lambda f, b: f(b, 3, 1).sum(-1),
    "macro_chunks": lambda f, b: f(b, None, "random").number.double() + 1,
    "rising": lambda f, b: f(b.take("raw"), b.own).float(),
    "sigma_weights": lambda f, b: f(chunks(b.own, 2), "position"),
    "chunk_gae": lambda f, b: sum(
        f(chunks(b.own, 2), b.own / 2, b.take("raw"), b.take("logp"), 0.9, 0.8)
    ),
    "branch_values": lambda f, b: f(
        replace(b, ids=(torch.arange(b.ids.shape[1]) % 3).expand(b.ids.shape))
    ),
    "steered": lambda f, b: f(b.take("logp"), b.take("reward").nan_to_num() / 9, 0.5),
    "overlong": lambda f, b: f(b, 4, 2.5),
    "row_names": lambda f, b: (f(b) % 997).double(),
    "random_numbers": lambda f, b: f(b),
    "most_varied": lambda f, b: f((b.take("logp") * b.own).sum(1), row_names(b), 0.6).float(),
    "novelty": lambda f, b: f(
        torch.stack([b.take("logp")[:, 1], b.take("raw")[:, 1]], 1),
        b.group,
        b.take("raw")[:, 1].sign(),
    ),
}
LOSSES = {
    "clipped": lambda f, b: f(b.take("logp"), b.take("raw"), b.take("advantage"), 0.2, 0.3),
    "capped": lambda f, b: f(b.take("logp"), b.take("raw"), b.take("advantage"), 0.2, 0.3),
    "of_rows": lambda f, b: f(b.take("logp"), b.take("raw"), b.own, each=False),
    "k2": lambda f, b: f(b.take("logp"), b.take("raw")),
    "k3": lambda f, b: f(b.take("logp"), b.take("raw")),
    "penalty": lambda f, b: f("k3_ratio", b.take("logp"), b.take("raw"), b.take("advantage")),
    "policy_gradient": lambda f, b: f(
        Sample(2), unchanged, Surrogate("cap", "sequence_token", entropy=0.1), token_mean
    ).loss({"policy": about(b, words(b))}, b),
    "distill": lambda f, b: f(*student_and_teacher(b), b, Estimator(SEEN, "k2", 1.5, 0.5)),
    "advantage": lambda f, b: f(*student_and_teacher(b), Estimator(SEEN, "advantage", None, 0.5)),
    "nll": lambda f, b: f({"policy": about(b, words(b))}, b),
    "both_laws": lambda f, b: sum(f(about(b, words(b)), b)),
    "corrected": lambda f, b: f(nll, "sequence", 1.5)({"policy": about(b, words(b))}, b),
    "implicit_reward": lambda f, b: f(
        dict(zip(("policy", "reference"), student_and_teacher(b), strict=True)), 0.3
    ),
    "margin": lambda f, b: f(
        b.take("logp") * b.own, b.put(side=(b.take("raw") * b.own).sum(1).sign())
    ),
    "sequence_mean": lambda f, b: f(b),
    "told_mean": lambda f, b: f(b),
    "amplified": lambda f, b: f(compared(b), b.own, 0.5) * b.own,
    "overlapping": lambda f, b: f(*student_and_teacher(b), 2).float(),
    "constant": lambda f, b: f(b, 7),
    "row_mean": lambda f, b: f(b),
    "finished": lambda f, b: f(token_mean)(b.put(finished=(b.own.sum(1) < 4).double())),
    "normalised": lambda f, b: sum(f(kind, 7)(b) for kind in ("token", "sequence", "constant")),
    "token_mean": lambda f, b: f(b),
}
PARTS = {
    **defined("credits", inspect.isfunction),
    **defined("losses", inspect.isfunction),
    "token_mean": token_mean,
}
READERS = {
    "continued": "test_continued", "tail_logp": "test_continued", "lines": "test_spans",
    "tokens_until": "test_spans", "written": "test_spans", "embeddings": "test_novelty",
    "hidden_reward": "methods/test_thr", "guessed": "methods/test_mdpo",
    "surest": "methods/test_d_opsd", "with_states": "methods/test_dcolt",
    "with_sureness": "methods/test_speed_rl",
}  # fmt: skip
"""Parts that read a model or its text, which these rows lack: where they are tested."""


def test_every_credit_and_loss_has_a_row():
    assert set(PARTS) == {*CREDITS, *LOSSES, *READERS}


@pytest.fixture(params=[*CREDITS, *LOSSES])
def part(request):
    """(batch -> values of the part, a batch of two groups with the streams it may ask for)."""
    lengths = [2, 4, 1, 3, 3]
    logp, raw, advantage = random_logits(3, sum(lengths), seed=8, size=0.3).detach()
    batch = rows_of(
        lengths, [1.0, 0.0, math.nan, 0.5, 0.75], logp=logp, raw=raw, advantage=advantage
    )
    batch = replace(batch, group=torch.tensor([0, 0, 0, 1, 1]))
    call = {**CREDITS, **LOSSES}[request.param]
    return lambda changed: call(PARTS[request.param], changed), batch


def test_parts_do_not_see_padding_row_order_or_group_numbers(part):
    values, batch = part
    expected = values(batch)
    assert expected.isfinite().all() and expected.abs().max() > 0
    own = batch.own if expected.dim() > 1 else torch.ones(len(batch), dtype=torch.bool)
    wide = values(padded(batch))
    wide = wide[:, : batch.ids.shape[1]] if wide.dim() > 1 else wide
    assert torch.allclose(wide[own], expected[own], rtol=EXACT, atol=0)
    order = [3, 0, 4, 2, 1]
    assert torch.allclose(
        values(batch.select(order))[own[order]], expected[order][own[order]], rtol=EXACT, atol=0
    )
    assert torch.equal(values(renumbered(batch)), expected)


def test_parts_mutate_nothing(part):
    values, batch = part
    before = photograph(batch)
    values(batch)
    after = photograph(batch)
    assert all(torch.allclose(before[k], after[k], rtol=0, atol=0, equal_nan=True) for k in before)
