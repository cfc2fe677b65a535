"""Roles: one set of weights that teaches itself, and whoever else reads along.

policy      the live weights
initial     the weights before the first update: the LoRA adapter switched off, or a frozen copy
ema, ema:d  exponential moving average of the effective weights, decay d (0.999 by default)
copy:k      the effective weights of every k-th update, the initial ones until then
<folder>    any checkpoint with the same vocabulary, frozen
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float

from autodidact.adapter import effective_weights
from autodidact.auxiliary import Auxiliary, Trained
from autodidact.batch import Batch
from autodidact.chat import same_vocabulary
from autodidact.engine import Engine, Outside
from autodidact.head import Head
from autodidact.lasting import LASTING, decay, interval
from autodidact.ledger import Ledger
from autodidact.model import LM, load
from autodidact.names import nearest
from autodidact.pack import joined, lean
from autodidact.remembered import States, lasts, remembered
from autodidact.scores import Scores
from autodidact.sharding import LEARN, READ, STATES, Sharded
from autodidact.store import Store
from autodidact.trunk import heard, layers
from autodidact.view import View

if TYPE_CHECKING:
    from autodidact.spec import Gather


class Models:
    """Role -> LM, with the ledger of what they read and the store of what they wrote."""

    def __init__(
        self,
        policy: LM,
        store: Store | None = None,
        engine: Engine | None = None,
        roles: Mapping[str, LM] | None = None,
    ):
        self.policy = policy
        self.ledger = Ledger()
        self.store = store
        self.engine = engine
        """What draws from the policy; `None` for the model itself, where it is."""
        self.auxiliaries: dict[str, Trained] = {}
        """Networks that are trained beside the policy, by name."""
        self.states: States | None = None
        """Where the outputs of frozen roles are kept and looked up, see `remembered`."""
        self.pack = True
        """Views are read without padding, and shared prefixes once; numbers do not change."""
        self.version: str | None = None
        """Names the policy's weights where they are known to be shared between runs."""
        self.sharded: Sharded | None = None
        """How the weights of all roles are spread over the processes of a run, if they are."""
        self._roles: dict[str, LM] = {"policy": policy, **(roles or {})}

    def __getitem__(self, role: str) -> LM:
        """The model in that role, made at its first use (before the first update)."""
        if role not in self._roles:
            assert self.sharded is None, f"{role!r} must be in use before the weights are spread"
            self._roles[role] = self._make(role)
        return self._roles[role]

    def roles(self) -> dict[str, LM]:
        """All that are in use, by name."""
        return dict(self._roles)

    def _make(self, role: str) -> LM:
        kind, _, argument = role.partition(":")
        policy = self.policy
        if role == "initial" or kind in LASTING:
            assert self.ledger.optimizer_steps == 0, f"{role!r} must be in use before an update"
        if role == "initial":
            if hasattr(policy.model, "peft_config"):
                return replace(policy, adapter_off=True)
            return self._frozen(copy.deepcopy(policy.model))
        if kind in LASTING:
            decay(argument) if kind == "ema" else interval(argument)
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
            roles = ("policy", "initial", "ema", "copy:100")
            raise ValueError(
                f"role {role!r} is none of {', '.join(roles)} and no checkpoint either ({error})"
                + nearest(role, roles)
            ) from error
        same_vocabulary(role, other, policy)
        return replace(self._frozen(other.model), _obstacles={})

    def _frozen(self, model: Any) -> LM:
        policy = self.policy
        model.requires_grad_(False)
        return replace(policy, model=model.eval(), adapter_off=False)

    def score(self, view: View, batch: Batch, temperature: float | None = None) -> Scores:
        """Read a view and keep what is needed to answer about the batch's tokens.

        The temperature is that of the batch unless given. Nothing carries gradient where
        gradients are off, as in a credit, whatever the view says.
        """
        return self.scores({"": view}, batch, temperature)[""]

    def scores(
        self, views: Mapping[str, View], batch: Batch, temperature: float | None = None
    ) -> dict[str, Scores]:
        """`score` for several views, by name.

        Views of one role are read in one pass where shared prefixes make that cost less. What is
        read along with a view that carries gradient is charged as it is: `student_forward`.
        """
        temperature = batch.temperature if temperature is None else temperature
        live = torch.is_grad_enabled()
        views = {name: replace(view, grad=view.grad and live) for name, view in views.items()}
        found = {}
        known = {name for name, view in views.items() if self.states is not None and lasts(view)}
        for name in known:
            asked = views[name].asked
            head = self[views[name].role].head().detach()
            hidden = remembered(self, views[name]).to(head.weight.dtype)
            found[name] = Scores(hidden, head, asked, batch.ids[asked], temperature)
        for names, fed in self._readings({n: v for n, v in views.items() if n not in known}):
            output, head = self._read(fed)
            for name, at in zip(names, fed.at.chunk(len(names)), strict=True):
                asked, grad = at >= 0, views[name].grad
                hidden, law = output[at[asked]], head
                if not grad:
                    hidden, law = hidden.detach(), head.detach()
                weight = batch.streams.get("weight")
                if weight is not None:
                    weight = weight.view(len(weight), -1).expand_as(asked)[asked]
                found[name] = Scores(hidden, law, asked, batch.ids[asked], temperature, weight)
        return {name: found[name] for name in views}

    def outputs(self, view: View) -> Float[torch.Tensor, "RS D"]:
        """The outputs of a view of one role, in its own places, without gradient."""
        fed = self._packed(view)
        output, _ = self._read(fed)
        found = output.new_zeros(view.ids.numel(), output.shape[1])
        found[view.at[view.asked]] = output[fed.at[view.asked]]
        return found

    @torch.no_grad()
    def depths(self, view: View, shares: Sequence[float]) -> Float[torch.Tensor, "N L D"]:
        """States of a view of one role at these shares of its layers, at the tokens asked.

        Of L layers share s takes the output of layer round(s L); 0 is the embedding, 1 the last,
        after the final norm.
        """
        view = replace(view, grad=False)
        self.ledger.teacher_forward += int(view.real.sum())
        if self.sharded is not None:
            self.sharded.ready(view.role, STATES)
        reader = self[view.role]
        trunk = reader.base.base_model
        count = len(layers(trunk))
        places = [round(share * count) for share in shares]
        with heard(trunk, {*places}) as found:
            found[count] = reader.read(view, use_cache=False).last_hidden_state
        chosen = [found[place].flatten(0, 1) for place in places]
        return torch.stack([each[view.at[view.asked]] for each in chosen], 1)

    def trained(self, auxiliary: Auxiliary) -> Trained:
        """The network of an auxiliary, made at its first use, and its optimizer."""
        if auxiliary.name not in self.auxiliaries:
            self.auxiliaries[auxiliary.name] = Trained.of(auxiliary, self)
        return self.auxiliaries[auxiliary.name]

    def _read(self, view: View) -> tuple[Float[torch.Tensor, "RS D"], Head]:
        """The outputs of a view as it stands, and the head over them. The ledger is charged."""
        reader, count = self[view.role], int(view.real.sum())
        if view.grad:
            self.ledger.student_forward += count
        else:
            self.ledger.teacher_forward += count
        if self.sharded is not None:
            self.sharded.ready(view.role, LEARN if view.grad else READ)
        with torch.set_grad_enabled(view.grad):
            output = reader.read(view, use_cache=False).last_hidden_state
            return output.flatten(0, 1), reader.head()

    def _readings(self, views: Mapping[str, View]) -> list[tuple[list[str], View]]:
        """Which views are read in one pass, and what is fed in it."""
        plan: list[tuple[list[str], View]] = []
        for name, view in views.items():
            fed, free = self._packed(view), self.pack and view.document is None
            for i, (names, other) in enumerate(plan):
                mates = [views[n] for n in names]
                if not (free and other.role == view.role and mates[0].document is None):
                    continue
                both = self._packed(joined([*mates, view]))
                if _cost(both) < _cost(other) + _cost(fed):
                    plan[i] = ([*names, name], both)
                    break
            else:
                plan.append(([name], fed))
        return plan

    def _packed(self, view: View) -> View:
        """The view without its padding, and with every shared prefix once, where that saves."""
        return lean(self[view.role], view) if self.pack else view

    def shard(self, gather: Gather = "all", device: str | None = None) -> None:
        """Spread the weights of all roles over the processes of the run, see `sharding`."""
        self.sharded = Sharded(self._roles, gather, device)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """While this is open every process draws and reads as it likes, see `sharding`."""
        if self.sharded is None:
            yield
            return
        with self.sharded.opened():
            if isinstance(self.engine, Outside):
                self.engine.follow(self.policy, together=True)
            yield

    @contextmanager
    def uncharged(self) -> Iterator[None]:
        """What is drawn and read while this is open is for looking, and costs a run nothing."""
        spent, self.ledger = self.ledger, Ledger(optimizer_steps=self.ledger.optimizer_steps)
        try:
            yield
        finally:
            self.ledger = spent

    @torch.no_grad()
    def after_step(self, before: int) -> None:
        """Move the lasting roles after a step.

        Args:
            before: updates that had been made before it.
        """
        now = self.ledger.optimizer_steps
        for role, reader in self.lasting().items():
            kind, _, argument = role.partition(":")
            if kind == "ema":
                share = 1 - decay(argument)
            elif now // interval(argument) > before // interval(argument):
                share = 1.0
            else:
                continue
            live = effective_weights(self.policy.model)
            for name, value in reader.model.named_parameters():
                value.lerp_(live[name].to(value.dtype), share)

    def lasting(self) -> Mapping[str, LM]:
        """The roles whose weights a checkpoint must hold beside the policy's."""
        return {role: lm for role, lm in self._roles.items() if role.partition(":")[0] in LASTING}


def _cost(view: View) -> int:
    """Tokens and padding that are fed, in passes: with gradient a token costs three."""
    return view.ids.numel() * (3 if view.grad else 1)
