"""One measurement of `benchmarks.divergence`, in a process of its own.

`python -m benchmarks.divergence_worker CASE` reads the case as JSON and prints what was seen as
JSON. Shapes: N tokens, D hidden size, V vocabulary.

Every party computes the mean over tokens of the divergence over the whole vocabulary, then its
gradients, from the same hidden states and heads. How each is called:

ours           `Scores.divergence`, as a method does, with the weight of each token known.
naive          `log_softmax` of the whole logits of both sides, autograd for the rest.
TRL GKD        `GKDTrainer.generalized_jsd_loss` on whole logits, without labels: its mask would
               only add a copy.
TRL chunked    `_chunked_divergence_loss` of `DistillationTrainer`; its chunk is a tile of tokens
               and words, two constants of a module that are set here.
Liger          `LigerFusedLinearJSDLoss` without its hard loss, eager or compiled. It has no frozen
               head: the gradient of the head is computed all the same.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch._dynamo.utils import counters

from autodidact.divergence import Divergence
from autodidact.head import Head
from autodidact.scores import Scores
from autodidact.sweep import sizes
from benchmarks.measuring import free, peak, product, started, timed

BETA = {"jsd": 0.5, "reverse": 1.0}
"""The peers' number for each kind."""
BUFFERS = {
    "naive": {"jsd": 9.0, "reverse": 5.0},
    "TRL GKD": {"jsd": 17.3, "reverse": 9.0},
    "chunked": {"jsd": 13.0, "reverse": 13.0},
}
"""How many tensors of its logits a party holds at its peak, as measured: for the estimate."""


@dataclass(frozen=True)
class Case:
    """What is measured. `chunk` is (tokens,) for Liger, (tokens, words) for TRL, else empty."""

    party: str
    kind: str
    hidden: int
    tokens: int
    words: int
    frozen: bool
    chunk: tuple[int, ...] = ()
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    quick: bool = False


@dataclass(frozen=True)
class Data:
    """Student and teacher. `hidden [N, D]`, `head [V, D]`, and the ids that were sampled `[N]`."""

    hidden: torch.Tensor
    head: torch.Tensor
    other_hidden: torch.Tensor
    other_head: torch.Tensor
    targets: torch.Tensor

    def few(self, tokens: int) -> Data:
        """The first tokens, with gradients cleared."""
        self.head.grad = None
        return replace(
            self,
            hidden=self.hidden[:tokens].detach().requires_grad_(),
            other_hidden=self.other_hidden[:tokens],
            targets=self.targets[:tokens],
        )


def draw(case: Case) -> Data:
    """The same numbers for every party: logits of standard deviation 2, laws that differ."""
    generator = torch.Generator().manual_seed(0)

    def normal(count: int, scale: float) -> torch.Tensor:
        drawn = torch.randn(count, case.hidden, generator=generator).mul_(scale)
        return drawn.to(case.device, getattr(torch, case.dtype))

    scale = 2 / math.sqrt(case.hidden)
    hidden, other = normal(case.tokens, 1.0), normal(case.tokens, 1.0)
    head = normal(case.words, scale).requires_grad_(not case.frozen)
    targets = torch.randint(case.words, (case.tokens,), generator=generator).to(case.device)
    return Data(hidden, head, other, normal(case.words, scale), targets)


def ours(case: Case, data: Data) -> torch.Tensor:
    asked = torch.ones(1, len(data.hidden), dtype=torch.bool, device=case.device)
    weights = torch.full(asked.shape, 1 / asked.numel(), device=case.device)
    student = Scores(data.hidden, Head(data.head), asked, data.targets, weight=weights[asked])
    teacher = Scores(data.other_hidden, Head(data.other_head), asked, data.targets)
    return (student.divergence(teacher, Divergence(case.kind)) * weights).sum()


def naive(case: Case, data: Data) -> torch.Tensor:
    p = (data.hidden @ data.head.T).float().log_softmax(-1)
    q = (data.other_hidden @ data.other_head.T).float().log_softmax(-1)
    if case.kind == "reverse":
        return (p.exp() * (p - q)).sum(-1).mean()
    middle = torch.logaddexp(p, q) - math.log(2)
    return (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(-1).mean() / 2


def gkd(case: Case, data: Data) -> torch.Tensor:
    from trl.experimental.gkd import GKDTrainer

    student, teacher = data.hidden @ data.head.T, data.other_hidden @ data.other_head.T
    return GKDTrainer.generalized_jsd_loss(student, teacher, beta=BETA[case.kind])


def trl(case: Case, data: Data) -> torch.Tensor:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    mask = torch.ones(1, len(data.hidden), device=case.device)
    return _chunked_divergence_loss(
        data.hidden[None], data.other_hidden[None], data.head, data.other_head, mask,
        BETA[case.kind],
    )[0]  # fmt: skip


def liger(case: Case, data: Data) -> torch.Tensor:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA[case.kind],
        compiled=case.party == "Liger compiled", chunk_size=case.chunk[0],
    )  # fmt: skip
    return loss(data.hidden, data.head, data.other_hidden, data.other_head, data.targets)


PARTIES: dict[str, Callable[[Case, Data], torch.Tensor]] = {
    "ours": ours,
    "naive": naive,
    "TRL GKD": gkd,
    "TRL chunked": trl,
    "Liger": liger,
    "Liger compiled": liger,
}


def tiles(case: Case) -> AbstractContextManager[Any]:
    if case.party != "TRL chunked":
        return nullcontext()
    from trl.kernels import chunked_divergence

    tokens, words = case.chunk
    return patch.multiple(chunked_divergence, TOKEN_CHUNK_SIZE=tokens, VOCAB_CHUNK_SIZE=words)


def warm(case: Case, data: Data) -> list[int]:
    """Tokens of the calls that come first, so that the measured one compiles nothing."""
    if case.party == "ours":
        return [sizes(case.tokens, Head(data.head))[0]]
    if case.party == "Liger compiled":
        # The second has another number of tokens: from then on it is dynamic.
        return [case.chunk[0], min(2 * case.chunk[0], case.tokens)]
    return [min(16, case.tokens)]


def needed(case: Case) -> float:
    """About how many bytes it takes, all in all."""
    head = case.words * case.hidden * 4
    rows, words = ([*case.chunk, case.words] if case.chunk else [case.tokens, case.words])[:2]
    if case.party == "ours":
        rows = 2 * case.hidden
    logits = min(rows, case.tokens) * min(words, case.words) * 4
    buffers = BUFFERS.get(case.party, BUFFERS["chunked"])[case.kind]
    # Two heads are given, and the student's gradient is of their size; Liger's is there thrice.
    return (5 if case.party.startswith("Liger") else 3) * head + buffers * logits


def step(case: Case, data: Data) -> torch.Tensor:
    with tiles(case):
        loss = PARTIES[case.party](case, data)
        loss.backward()
    return loss.detach()


def measure(case: Case) -> dict[str, Any]:
    """Seconds, bytes and results of one call; or {"skipped": why} where memory does not suffice."""
    torch.set_num_threads(case.threads)
    if case.party == "roof":
        return product(512 if case.quick else 4096, case.device, getattr(torch, case.dtype))
    if needed(case) > free(case.device):
        return {
            "skipped": f"needs about {needed(case) / 2**30:.1f} GiB, "
            f"{free(case.device) / 2**30:.1f} GiB are available"
        }
    data = draw(case)
    firsts, none = [], counters["stats"]["unique_graphs"]
    for tokens in warm(case, data):
        firsts.append(timed(case.device, partial(step, case, data.few(tokens)))[1])
    data = data.few(case.tokens)
    made = counters["stats"]["unique_graphs"]
    before = started(case.device)
    loss, wall, cpu = timed(case.device, partial(step, case, data))
    most = peak(case.device) - before
    assert counters["stats"]["unique_graphs"] == made, "the measured call compiled something"
    found = {"wall": wall, "cpu": cpu, "bytes": most, "first": firsts[0], "compiles": made > none}
    return found | {"results": results(case, data, float(loss))}


def results(case: Case, data: Data, loss: float) -> dict[str, float]:
    """Loss, norms of the gradients, and their cosines to the teacher's tensors."""
    found = {"loss": loss}
    pairs = {"hidden": (data.hidden.grad, data.other_hidden)}
    if not case.frozen:
        pairs["head"] = (data.head.grad, data.other_head)
    for name, (gradient, probe) in pairs.items():
        assert gradient is not None
        norm = float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
        size = float(torch.linalg.vector_norm(probe, dtype=torch.float64))
        found[f"norm of the gradient in the {name}"] = norm
        cosine = float((gradient * probe).sum(dtype=torch.float64)) / (norm * size)
        found[f"cosine of the gradient in the {name}"] = cosine
    return found


def main() -> None:
    given = json.loads(sys.argv[1])
    case = Case(**(given | {"chunk": tuple(given["chunk"])}))
    print(json.dumps(measure(case)))


def command(case: Case) -> list[str]:
    return [sys.executable, "-m", "benchmarks.divergence_worker", json.dumps(asdict(case))]


if __name__ == "__main__":
    main()
