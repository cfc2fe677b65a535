"""Scores: what a model says at the asked tokens, without ever holding their logits.

Shapes: N asked tokens, D hidden size, V vocabulary, [B, T] the batch. Law 3: no line outside this
file touches the vocabulary axis (the sampler of an engine, which must draw from it, aside).

The output head runs over chunks of the N tokens. Where gradients are needed and there is more
than one chunk, each chunk is recomputed in the backward pass, so that the memory is that of one
chunk whatever N is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch.utils.checkpoint import checkpoint

from autodidact.divergence import Divergence

CHUNK_BYTES = 64 * 2**20
"""Budget for one [chunk, V] float32 tensor; about six of them live at once."""


@dataclass(frozen=True)
class Head:
    """The output head of a model: logits = soft_cap(scale * (hidden W^T + bias)).

    Attributes:
        weight: [V, D]. bias: [V] or `None`.
        scale: Cohere's `logit_scale`, or one over Granite's `logits_scaling`.
        softcap: Gemma's `final_logit_softcapping` c: logits become c tanh(logits / c).
    """

    weight: Float[torch.Tensor, "V D"]
    bias: Float[torch.Tensor, "V"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Float[torch.Tensor, "n D"]) -> Float[torch.Tensor, "n V"]:
        """Logits in at least float32, whatever the precision of the product."""
        logits = torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits * self.scale if self.scale != 1.0 else logits
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()

    def detach(self) -> Head:
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, weight=self.weight.detach(), bias=bias)

    def log_softmax(
        self, hidden: Float[torch.Tensor, "n D"], temperature: float
    ) -> Float[torch.Tensor, "n V"]:
        return (self.logits(hidden) / temperature).log_softmax(-1)


@dataclass(frozen=True)
class Scores:
    """What one role says about the asked tokens of a batch.

    Every quantity is [B, T] and 0 where nothing was asked. Natural logarithms, so nats.

    Attributes:
        hidden: final hidden states of the N asked tokens, in row-major order of `asked`.
        asked: [B, T], which tokens were asked.
        targets: [N], the ids of those tokens.
        temperature: the logits are divided by it.
        notes: detached [B, T] by-products of sweeps already made (`entropy`, `logp`, ...).
    """

    hidden: Float[torch.Tensor, "N D"]
    head: Head
    asked: Bool[torch.Tensor, "B T"]
    targets: Int[torch.Tensor, "N"]
    temperature: float = 1.0
    notes: dict[str, Float[torch.Tensor, "B T"]] = field(default_factory=dict)

    def __post_init__(self):
        assert len(self.hidden) == len(self.targets) == int(self.asked.sum())

    @property
    def logp(self) -> Float[torch.Tensor, "B T"]:
        """Log-probability of each token."""
        return self.read("logp")["logp"]

    @property
    def entropy(self) -> Float[torch.Tensor, "B T"]:
        """Entropy of the whole next-token law; differentiable."""
        return self.read("entropy")["entropy"]

    @property
    def rank(self) -> Float[torch.Tensor, "B T"]:
        """How many words are strictly likelier than the token; no gradient."""
        return self.read("rank")["rank"]

    @property
    def self_certainty(self) -> Float[torch.Tensor, "B T"]:
        """KL(uniform || p) = -mean_v log(V p_v) (2502.18581): 0 for a uniform law."""
        return self.read("self_certainty")["self_certainty"]

    def read(self, *names: str) -> dict[str, Float[torch.Tensor, "B T"]]:
        """Several of `logp`, `entropy`, `rank`, `self_certainty` in one sweep over the head."""

        def visit(logp: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.no_grad():
                noted = [_QUANTITIES[name](logp, targets) for name in _NOTED]
            return *(_QUANTITIES[name](logp, targets) for name in names), *noted

        found = self._sweep(visit, len(names) + len(_NOTED))
        self.notes.update(zip(_NOTED, found[len(names) :], strict=True))
        return dict(zip(names, found, strict=False))

    def divergence(self, teacher: Scores, kind: Divergence) -> Float[torch.Tensor, "B T"]:
        """Divergence of this law (student) to the teacher's, token by token.

        The teacher is detached. Notes left on the way: `entropy` and `logp` of both,
        `tv` (one minus the acceptance rate of speculative decoding), and `negative`, the share
        of tokens whose value is below zero (only a clip makes it so).
        """
        assert torch.equal(self.asked, teacher.asked), "both sides must be asked the same tokens"
        if self.head.weight.shape[0] != teacher.head.weight.shape[0]:
            raise ValueError(
                f"the student's vocabulary has {self.head.weight.shape[0]} words, the teacher's "
                f"{teacher.head.weight.shape[0]}: a divergence needs the same vocabulary"
            )

        def visit(logp, targets, hidden):
            with torch.no_grad():
                logq = teacher.head.log_softmax(hidden, teacher.temperature)
            value = kind.summands(logp, logq).sum(-1)
            with torch.no_grad():
                tv = (logp.exp() - logq.exp()).abs().sum(-1) / 2
                notes = [_QUANTITIES[name](law, targets) for law in (logp, logq) for name in _NOTED]
            return value, tv, *notes

        value, tv, logp, entropy, teacher_logp, teacher_entropy = self._sweep(
            visit, 6, teacher.hidden.detach()
        )
        self.notes.update(
            logp=logp.detach(), entropy=entropy.detach(), tv=tv.detach(),
            teacher_logp=teacher_logp.detach(), teacher_entropy=teacher_entropy.detach(),
            negative=(value < 0).to(value.dtype).detach(),
        )  # fmt: skip
        return value

    @torch.no_grad()
    def topk(self, k: int) -> tuple[Int[torch.Tensor, "B T k"], Float[torch.Tensor, "B T k"]]:
        """The k likeliest words of each asked token, with their log-probabilities."""
        words = torch.zeros((*self.asked.shape, k), dtype=torch.long, device=self.hidden.device)
        logps = torch.zeros((*self.asked.shape, k), device=self.hidden.device)
        found = [self._log_softmax(self.hidden[piece]).topk(k) for piece in self._pieces()]
        if found:
            words[self.asked] = torch.cat([each.indices for each in found])
            logps[self.asked] = torch.cat([each.values for each in found]).to(logps.dtype)
        return words, logps

    def _log_softmax(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.head.log_softmax(hidden, self.temperature)

    def _pieces(self) -> list[slice]:
        step = max(1, CHUNK_BYTES // (4 * self.head.weight.shape[0]))
        return [slice(i, i + step) for i in range(0, len(self.targets), step)]

    def _sweep(
        self, visit: Callable[..., tuple[torch.Tensor, ...]], count: int, *beside: torch.Tensor
    ) -> list[Float[torch.Tensor, "B T"]]:
        """Run `visit(logp [n, V], targets [n], *beside[n])` over chunks; scatter to [B, T]."""

        def look(hidden, targets, *beside):
            return visit(self._log_softmax(hidden), targets, *beside)

        pieces = self._pieces()
        recompute = len(pieces) > 1 and torch.is_grad_enabled()
        columns: list[list[torch.Tensor]] = [[] for _ in range(count)]
        for piece in pieces:
            inputs = (self.hidden[piece], self.targets[piece], *(each[piece] for each in beside))
            found = (
                checkpoint(look, *inputs, use_reentrant=False, preserve_rng_state=False)
                if recompute
                else look(*inputs)
            )
            for column, value in zip(columns, found, strict=True):
                column.append(value)
        return [self._dense(column) for column in columns]

    def _dense(self, column: list[torch.Tensor]) -> Float[torch.Tensor, "B T"]:
        values = torch.cat(column) if column else self.hidden.sum(-1)
        return values.new_zeros(self.asked.shape).masked_scatter(self.asked, values)


def _logp(logp: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logp.gather(-1, targets[:, None]).squeeze(-1)


def _entropy(logp: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -(logp.exp() * logp).sum(-1)


def _rank(logp: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (logp > logp.gather(-1, targets[:, None])).sum(-1).to(logp.dtype)


def _self_certainty(logp: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -logp.mean(-1) - torch.tensor(float(logp.shape[-1]), dtype=logp.dtype).log()


_QUANTITIES = {
    "logp": _logp,
    "entropy": _entropy,
    "rank": _rank,
    "self_certainty": _self_certainty,
}
_NOTED = ("logp", "entropy")
