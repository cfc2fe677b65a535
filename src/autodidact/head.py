"""The output head of a model: from hidden states to logits, and back for a gradient.

Shapes: n tokens, D hidden size, V vocabulary. Sums are formed in float32 at least, also over a
head that is stored in half precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

BLOCK = 512
"""Words of one product on a CPU, so that the part of the head which it reads stays in the cache."""


def whole(weight: torch.Tensor) -> torch.Tensor:
    """The weight itself, or all of one that is sharded over processes.

    The gradients of all processes are summed into the shards, as the weights of a loss are made
    over the batch of all.
    """
    if not hasattr(weight, "full_tensor"):
        return weight
    from torch.distributed.tensor import DTensor, Partial

    assert isinstance(weight, DTensor)
    return weight.full_tensor(grad_placements=[Partial()] * weight.device_mesh.ndim)


THIN = 16
"""Rows below which the head is read once and nothing of it is needed again."""


@dataclass(frozen=True)
class Head:
    """logits = soft_cap(scale * (hidden W^T + bias)).

    Attributes:
        weight: [V, D]. bias: [V] or `None`.
        scale: Cohere's `logit_scale`, or one over Granite's `logits_scaling`.
        softcap: Gemma's `final_logit_softcapping` c: logits become c tanh(logits / c).
    """

    weight: Float[torch.Tensor, "V D"]
    bias: Float[torch.Tensor, "V"] | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def words(self) -> int:
        return self.weight.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of logits and of gradients: float32, or float64 where the head is."""
        return torch.promote_types(self.weight.dtype, torch.float32)

    def detach(self) -> Head:
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, weight=self.weight.detach(), bias=bias)

    def same_product(self, other: Head) -> bool:
        """Whether the other head multiplies by the very same weights."""
        if self.bias is not None and other.bias is not None:
            same = self.bias.data_ptr() == other.bias.data_ptr()
        else:
            same = self.bias is other.bias
        return same and self.weight.data_ptr() == other.weight.data_ptr()

    @torch.no_grad()
    def logits(self, hidden: Float[torch.Tensor, "n D"]) -> Float[torch.Tensor, "n V"]:
        """The logits of a few tokens, without gradient."""
        out = torch.empty(len(hidden), self.words, dtype=self.dtype, device=hidden.device)
        return bend(self.project(hidden, out), self.scale, self.softcap)[0]

    def project(
        self, hidden: Float[torch.Tensor, "n D"], out: Float[torch.Tensor, "n V"]
    ) -> Float[torch.Tensor, "n V"]:
        """out = hidden W^T + bias."""
        if self._half_units:
            torch.mm(
                hidden.to(self.weight.dtype), self.weight.T, out_dtype=self.dtype, out=out
            )  # fmt: skip
        else:
            hidden = hidden.to(self.dtype)
            thin = len(hidden) < THIN and self.weight.dtype == self.dtype
            in_columns = self.weight.stride(0) == 1 and self.weight.dtype == self.dtype
            whole = thin or in_columns or self.weight.is_cuda
            for words, weight in self._blocks(self.words if whole else BLOCK):
                torch.mm(hidden, weight.T, out=out[:, words])
        return out if self.bias is None else out.add_(self.bias)

    def pull(self, slope: Float[torch.Tensor, "n V"]) -> Float[torch.Tensor, "n D"]:
        """slope W: the gradient in the hidden states, given that in hidden W^T."""
        if self._half_units:
            return torch.mm(slope.to(self.weight.dtype), self.weight, out_dtype=self.dtype)
        found = slope.new_zeros(len(slope), self.weight.shape[1])
        for words, weight in self._blocks(self._wide):
            found.addmm_(slope[:, words], weight)
        return found

    def push(
        self,
        slope: Float[torch.Tensor, "n V"],
        hidden: Float[torch.Tensor, "n D"],
        into: Float[torch.Tensor, "V D"],
    ) -> None:
        """into += slope^T hidden: the gradient in W."""
        if self._half_units:
            kind = self.weight.dtype
            torch.addmm(
                into, slope.T.to(kind), hidden.to(kind), out_dtype=self.dtype, out=into
            )  # fmt: skip
            return
        hidden = hidden.to(self.dtype)
        into.addmm_(slope.T, hidden)

    @property
    def _half_units(self) -> bool:
        """Whether the device multiplies half precision into float32 sums that it hands out."""
        return self.weight.is_cuda and self.weight.dtype != self.dtype

    @property
    def _wide(self) -> int:
        """Words of a product over the rows of the head, which need no block but to be widened."""
        return self.words if self.weight.dtype == self.dtype else BLOCK

    def _blocks(self, step: int) -> Iterator[tuple[slice, Float[torch.Tensor, "w D"]]]:
        for start in range(0, self.words, step):
            words = slice(start, start + step)
            yield words, self.weight[words].to(self.dtype)


def bend(
    product: Float[torch.Tensor, "n V"],
    scale: float,
    softcap: float | None,
    temperature: float = 1.0,
) -> tuple[Float[torch.Tensor, "n V"], Float[torch.Tensor, "n V"] | float]:
    """Logits over temperature from hidden W^T + bias, and their derivative in it."""
    if softcap is None:
        factor = scale / temperature
        return product if factor == 1 else product * factor, factor
    bent = (product * (scale / softcap)).tanh()
    return bent * (softcap / temperature), (1 - bent**2) * (scale / temperature)
