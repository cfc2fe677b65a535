"""The law tokens are drawn from, and counter-based randomness.

One uniform number belongs to each (seed, prompt, sample, position). A rollout therefore does not
depend on which other rows stand beside it, on the order of rows, or on a restart.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Law:
    """softmax(logits / temperature), then top-k, then top-p, then min-p, renormalised.

    Attributes:
        temperature: 0 takes the likeliest word.
        top_k: keep the k likeliest words (ties of the k-th too); 0 keeps all.
        top_p: keep the smallest set of likeliest words with at least this mass.
        min_p: keep words at least this share as likely as the likeliest.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        bounds = {
            "temperature": (self.temperature >= 0, "at least 0"),
            "top_k": (self.top_k >= 0, "at least 0 (0 keeps all words)"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p < 1, "at least 0 and below 1"),
        }
        for name, (fine, allowed) in bounds.items():
            if not fine:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not allowed: it must be {allowed}"
                )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def truncates(self) -> bool:
        """Whether some words are cut off and several may be left."""
        return not self.greedy and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)

    def describe(self) -> dict[str, float]:
        return asdict(self)

    def log_probs(
        self, logits: Float[torch.Tensor, "B V"]
    ) -> tuple[Float[torch.Tensor, "B V"], Float[torch.Tensor, "B V"]]:
        """Log-probabilities without truncation, and those of the law (-inf where cut off).

        At temperature 0 the first are those at temperature 1, and the law is a point mass.
        """
        if self.greedy:
            raw = logits.log_softmax(-1)
            best = raw.argmax(-1, keepdim=True)
            return raw, torch.full_like(raw, -torch.inf).scatter(-1, best, 0.0)
        raw = (logits if self.temperature == 1 else logits / self.temperature).log_softmax(-1)
        kept = self.reshaped(raw)
        if self.top_k and self.top_k < raw.shape[-1]:
            least = kept.topk(self.top_k, dim=-1).values[:, -1:]
            kept = kept.masked_fill(kept < least, -torch.inf)
        if self.top_p < 1:
            ranked, order = kept.softmax(-1).sort(-1, descending=True)
            beyond = ranked.cumsum(-1) - ranked >= self.top_p
            kept = kept.masked_fill(beyond.scatter(-1, order, beyond), -torch.inf)
        if self.min_p > 0:
            floor = kept.amax(-1, keepdim=True) + torch.tensor(self.min_p).log()
            kept = kept.masked_fill(kept < floor, -torch.inf)
        return raw, raw if kept is raw else kept.log_softmax(-1)

    def reshaped(self, raw: Float[torch.Tensor, "B V"]) -> Float[torch.Tensor, "B V"]:
        """The law before truncation, up to a constant, from softmax(logits / temperature)."""
        return raw


@dataclass(frozen=True)
class Heated(Law):
    """A law whose temperature T follows the entropy H of softmax(logits / T): hotter where unsure.

    The temperature is T (1 + gain h), h = (log H - pivot) / (high - pivot) above the pivot and
    (log H - pivot) / (pivot - low) below it, within -1 to 1. What `log_probs` calls without
    truncation stays at T: a token weighs exp(raw - logp) for a loss that is about that law.

    Source: HAPO, arXiv 2509.16591. Its release divides by low - pivot, which is negative: then
    h >= 0 everywhere, and sure tokens are heated too (`legacy_sign`).

    Attributes:
        gain: how far the temperature may move, as a share of T; 0 is `Law`.
        pivot, low, high: log entropies where h is 0, -1 and 1.

    Raises:
        ValueError: as `Law`, temperature 0, a gain outside 0 to below 1, or a pivot that does not
            lie from low to high.
    """

    gain: float = 0.0
    pivot: float = 0.0
    low: float = 0.0
    high: float = 0.0
    legacy_sign: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.greedy or not 0 <= self.gain < 1:
            raise ValueError(
                f"temperature={self.temperature} and gain={self.gain} are not allowed: heating "
                "needs a temperature above 0 and a gain from 0 to below 1"
            )
        if not self.low <= self.pivot <= self.high:
            raise ValueError(
                f"pivot={self.pivot} must lie between low={self.low} and high={self.high}"
            )

    def reshaped(self, raw: Float[torch.Tensor, "B V"]) -> Float[torch.Tensor, "B V"]:
        entropy = torch.special.entr(raw.exp()).sum(-1, keepdim=True)
        return raw / (1 + self.gain * self.heat(entropy))

    def heat(self, entropy: Float[torch.Tensor, "*B"]) -> Float[torch.Tensor, "*B"]:
        """h, from -1 to 1: where a law of that entropy stands among those of the statistics."""
        above = log_entropy(entropy) - self.pivot
        up, down = max(self.high - self.pivot, TINY), max(self.pivot - self.low, TINY)
        heat = torch.where(above > 0, above / up, above / down).clamp(-1, 1)
        return heat.abs() if self.legacy_sign else heat


FLAT = 1e-6
"""Entropies below this many nats are rounding and count as this, so that they have a logarithm."""
TINY = 1e-12
"""Where pivot and extreme are one number, nothing lies between them."""


def log_entropy(entropy: Float[torch.Tensor, "*B"]) -> Float[torch.Tensor, "*B"]:
    """log H, with H at least 1e-6 nats."""
    return entropy.clamp(min=FLAT).log()


Sure = Literal["confidence", "margin", "entropy"]


def sureness(
    logits: Float[torch.Tensor, "N V"], words: Int[torch.Tensor, "N"], kind: Sure
) -> Float[torch.Tensor, "N"]:
    """How sure a law at temperature 1 is: the probability of the word drawn, the margin of the
    likeliest word over the second, or the negative entropy in nats."""
    logp = logits.log_softmax(-1)
    if kind == "confidence":
        return logp.gather(-1, words[:, None]).squeeze(-1).exp()
    if kind == "margin":
        first, second = logp.topk(2, dim=-1).values.exp().unbind(-1)
        return first - second
    return (logp.exp() * logp).sum(-1)


def without(logp: Float[torch.Tensor, "N V"], word: int) -> Float[torch.Tensor, "N V"]:
    """The law given that one word is not drawn."""
    barred = torch.zeros_like(logp, dtype=torch.bool)
    barred[:, word] = True
    return logp.masked_fill(barred, -torch.inf).log_softmax(-1)


def draw(
    law: Float[torch.Tensor, "B V"], uniform: Float[torch.Tensor, "B"]
) -> Int[torch.Tensor, "B"]:
    """The word at which the cumulative law passes each uniform number; never one with mass 0.

    The cumulative sums run over blocks of about sqrt(V) words, then inside the block that is hit.
    """
    mass, words = law.exp(), law.shape[1]
    size = max(1, math.isqrt(words))
    full = words // size * size
    blocks = mass[:, :full].unflatten(1, (-1, size)).sum(-1)
    if full < words:
        blocks = torch.cat([blocks, mass[:, full:].sum(-1, keepdim=True)], 1)
    total = blocks.double().cumsum(1)
    # Below 1 by more than rounding, so that nothing lies beyond the last word with mass.
    passed = uniform.double()[:, None] * (1 - 2**-52) * total[:, -1:]
    block = torch.searchsorted(total, passed, right=True)
    own = blocks.gather(1, block).double()
    left = ((passed - total.gather(1, block)) / own + 1).clamp_(0, 1 - 2**-52)
    inside = block * size + torch.arange(size, device=law.device)
    chosen = mass.gather(1, inside.clamp(max=words - 1)).masked_fill(inside >= words, 0.0)
    total = chosen.double().cumsum(1)
    return (block * size + torch.searchsorted(total, left * total[:, -1:], right=True)).squeeze(1)


def prompt_key(prompt: Sequence[int]) -> int:
    """A 63-bit name of a prompt."""
    text = ",".join(map(str, prompt)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def uniform(
    seed: int,
    prompts: Int[torch.Tensor, "..."],
    samples: Int[torch.Tensor, "..."],
    position: int | Int[torch.Tensor, "..."],
) -> Float[torch.Tensor, "..."]:
    """Uniform numbers in [0, 1), one for each (seed, prompt, sample, position).

    Args:
        prompts: `prompt_key` of each row.
        samples: the number of the sample among those of its prompt.
    """
    state = _mix(prompts + _signed(seed * 0x9E3779B97F4A7C15))
    state = _mix(state + samples * _signed(0xD1B54A32D192ED03))
    turn = torch.as_tensor(position, device=prompts.device) * _signed(0x8CB92BA72F3D8DD7)
    state = _mix(state + turn)
    return _shift(state, 11).double() * 2.0**-53


def _mix(x: Int[torch.Tensor, "*B"]) -> Int[torch.Tensor, "*B"]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), on int64 that wraps around."""
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift: torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(x: int) -> int:
    x &= 2**64 - 1
    return x - 2**64 if x >= 2**63 else x
