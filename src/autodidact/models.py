"""Roles: one set of weights that teaches itself, and whoever else reads along.

policy      the live weights
initial     the weights before the first update: the LoRA adapter switched off, or a frozen copy
ema, ema:d  exponential moving average of the effective weights, decay d (0.999 by default)
<folder>    any checkpoint with the same vocabulary, frozen
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autodidact.adapter import effective_weights
from autodidact.batch import Batch
from autodidact.ledger import Ledger
from autodidact.model import LM, load
from autodidact.names import nearest
from autodidact.scores import Scores
from autodidact.store import Store
from autodidact.view import View

DECAY = 0.999


class Models:
    """Role -> LM, with the ledger of what they read and the store of what they wrote."""

    def __init__(self, policy: LM, store: Store | None = None):
        self.policy = policy
        self.ledger = Ledger()
        self.store = store
        self.version: str | None = None
        """Names the policy's weights where they are known to be shared between runs."""
        self._roles: dict[str, LM] = {"policy": policy}

    def __getitem__(self, role: str) -> LM:
        """The model in that role, made at its first use (before the first update)."""
        if role not in self._roles:
            self._roles[role] = self._make(role)
        return self._roles[role]

    def _make(self, role: str) -> LM:
        kind, _, argument = role.partition(":")
        policy = self.policy
        if role == "initial" or kind == "ema":
            assert self.ledger.optimizer_steps == 0, f"{role!r} must be in use before an update"
        if role == "initial":
            if hasattr(policy.model, "peft_config"):
                return LM(
                    policy.model, policy.tokenizer, policy.name, True, policy.autocast,
                    policy.thinking,
                )  # fmt: skip
            return self._frozen(copy.deepcopy(policy.model))
        if kind == "ema":
            decay(argument)
            # Float32 even over bfloat16 weights, where a small step of the average is lost.
            stored = next(policy.model.parameters()).dtype
            wide = torch.promote_types(stored, torch.float32)
            model = copy.deepcopy(policy.model).to(wide)
            return self._frozen(
                model.merge_and_unload() if hasattr(model, "peft_config") else model
            )
        try:
            # Any other single word would be looked up on the hub, where a typo takes its time.
            if role != "tiny" and "/" not in role and not Path(role).is_dir():
                raise ValueError(f"there is no folder {role!r}")
            other = load(role, device=str(policy.device), thinking=policy.thinking)
        except ValueError as error:
            roles = ("policy", "initial", "ema")
            raise ValueError(
                f"role {role!r} is none of {', '.join(roles)} and no checkpoint either ({error})"
                + nearest(role, roles)
            ) from error
        if other.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
            raise ValueError(f"role {role!r} has another vocabulary than {policy.name!r}")
        return self._frozen(other.model)

    def _frozen(self, model: Any) -> LM:
        policy = self.policy
        model.requires_grad_(False)
        return LM(
            model.eval(), policy.tokenizer, policy.name, False, policy.autocast, policy.thinking
        )

    def score(self, view: View, batch: Batch, temperature: float | None = None) -> Scores:
        """Read a view and keep what is needed to answer about the batch's tokens.

        The temperature is that of the batch unless given. Nothing carries gradient where
        gradients are off, as in a credit, whatever the view says.
        """
        reader = self[view.role]
        count = int(view.real.sum())
        grad = view.grad and torch.is_grad_enabled()
        if grad:
            self.ledger.student_forward += count
        else:
            self.ledger.teacher_forward += count
        with torch.set_grad_enabled(grad):
            output = reader.hidden(view.ids, view.real, use_cache=False).last_hidden_state
            asked = view.asked
            hidden = output.flatten(0, 1)[view.at[asked]]
            head = reader.head()
        if not grad:
            head = head.detach()
        temperature = batch.temperature if temperature is None else temperature
        return Scores(hidden, head, asked, batch.ids[asked], temperature)

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the averaged roles after an update of the policy."""
        for role, reader in self._roles.items():
            kind, _, argument = role.partition(":")
            if kind != "ema":
                continue
            live = effective_weights(self.policy.model)
            for name, value in reader.model.named_parameters():
                value.lerp_(live[name].to(value.dtype), 1 - decay(argument))

    def averages(self) -> Mapping[str, LM]:
        """The roles whose weights a checkpoint must hold beside the policy's."""
        return {role: lm for role, lm in self._roles.items() if role.partition(":")[0] == "ema"}


def decay(argument: str) -> float:
    """The decay written after "ema:"; `ValueError` unless it lies in [0, 1)."""
    try:
        value = float(argument) if argument else DECAY
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise ValueError(f"role 'ema:{argument}': the decay must be a number from 0 to below 1")
    return value
