"""A masked model that is a table, and what can be known of one by reading every canvas of a text.

Shapes: N texts, n places of a text, W words, H = 2^n subsets of places that are hidden. For a few
places the exact log p and every bound of it are sums over the subsets, in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from jaxtyping import Float, Int
from torch import nn

from autodidact.law import Law
from autodidact.model import LM


class Tabular(nn.Module):
    """A law for each state of the canvas and each place, drawn from a Dirichlet distribution.

    A row is a prompt of one of the words and then `places` places; its words are 0 to words - 1
    and the mask `words`. Logits are the states of the trunk, the head is the identity.

    Args:
        free: the law of a place is the same in all states: tokens are independent.
        mask: the logit of the mask token.
        spread: 1 over the concentration of the Dirichlet distribution.
    """

    def __init__(
        self,
        places: int = 4,
        words: int = 3,
        seed: int = 0,
        *,
        free: bool = False,
        mask: float = -1e9,
        spread: float = 1.0,
    ):
        super().__init__()
        self.places, self.words = places, words
        states = 1 if free else (words + 1) ** (places + 1)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            share = torch.full((states, places + 1, words), 1 / spread, dtype=torch.double)
            law = torch.distributions.Dirichlet(share).sample().log()
        self.table = nn.Parameter(nn.functional.pad(law, (0, 1), value=mask))
        self.head = nn.Linear(words + 1, words + 1, bias=False, dtype=torch.double)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(words + 1))
        self.config = SimpleNamespace(
            is_causal=False, mask_token_id=words, output_shift=0, _attn_implementation="table",
            max_position_embeddings=2**20, get_text_config=lambda: self.config,
        )  # fmt: skip
        self.generation_config = None

    @property
    def base_model(self) -> Tabular:
        return self

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
        width, size = input_ids.shape[1], self.places + 1
        state = torch.zeros_like(input_ids[:, 0])
        if len(self.table) > 1:
            scale = (self.words + 1) ** torch.arange(size, device=state.device)
            state = (input_ids[:, :size] * scale).sum(1)
        found = nn.functional.pad(self.table[state], (0, 0, 0, max(0, width - size)))
        return SimpleNamespace(last_hidden_state=found[:, :width])


@torch.no_grad()
def everything(
    lm: LM,
    prompt: Sequence[int],
    texts: Int[torch.Tensor, "N L"],
    places: Sequence[int] | None = None,
) -> Float[torch.Tensor, "N H n"]:
    """log p of each token at some places, given that a subset of them is hidden.

    Subset h is written in the bits of h. The prompt and the other tokens of the text are seen, and
    the temperature is 1.

    Args:
        places: that were written; all by default.
    """
    where = torch.arange(texts.shape[1]) if places is None else torch.tensor(list(places))
    count, size = len(texts), len(where)
    hidden = torch.zeros(2**size, texts.shape[1], dtype=torch.bool)
    hidden[:, where] = ((torch.arange(2**size)[:, None] >> torch.arange(size)) & 1).bool()
    canvas = torch.where(hidden, lm.mask, texts[:, None]).flatten(0, 1)
    head = torch.tensor(list(prompt), dtype=torch.long).expand(len(canvas), -1)
    ids = torch.cat([head, canvas], 1)
    read = lm.hidden(ids, torch.ones_like(ids, dtype=torch.bool), use_cache=False)
    states = read.last_hidden_state[:, where + len(prompt) - lm.shift].flatten(0, 1)
    law = Law().log_probs(lm.head().logits(states))[0].view(count, 2**size, size, -1)
    words = texts[:, None, where, None].expand(-1, 2**size, -1, 1)
    return law.gather(-1, words).squeeze(-1).double()


def exact(logp: Float[torch.Tensor, "N H n"]) -> Float[torch.Tensor, "N"]:
    """log p: of all orders, each as likely, the log of their mean chance."""
    return _over_orders(logp.exp(), product=True).log()


def bound(logp: Float[torch.Tensor, "N H n"]) -> Float[torch.Tensor, "N"]:
    """The mean over orders of the log of their chance: at most log p (Jensen)."""
    return _over_orders(logp, product=False)


def _over_orders(values: Float[torch.Tensor, "N H n"], *, product: bool) -> torch.Tensor:
    size = values.shape[-1]
    found = [torch.full_like(values[:, 0, 0], float(product))]
    for hidden in range(1, 2**size):
        places = [i for i in range(size) if hidden >> i & 1]
        rest = [found[hidden & ~(1 << i)] for i in places]
        first = [values[:, hidden, i] for i in places]
        pairs = zip(first, rest, strict=True)
        terms = [a * b if product else a + b for a, b in pairs]
        found.append(torch.stack(terms).mean(0))
    return found[-1]
