"""What `prepacking` and `shared_prefix` share: a model, ways to score a batch, and their bound.

A group is a prompt of P tokens and its G completions of s tokens each. To score it,
P + sum(s) tokens must pass the linear layers, and every token reads those before it:
P^2 / 2 + sum(s P + s^2 / 2) pairs of attention. The bound is what as many tokens take in rows of
equal length that need no padding and no mask, each of 2 pairs / tokens columns: as many tokens,
pairs and asked tokens as must be paid for, and the fewest and largest calls.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from autodidact.batch import Batch, batch_of
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.scores import Scores
from autodidact.statistics import percentiles
from autodidact.view import plain
from benchmarks.measuring import timed
from benchmarks.table import Row, show, write

WORDS = 1024
"""A small vocabulary: the head costs the same in every way, and padding does not reach it."""
TOLERANCE = 1e-4
"""Relative difference of gradients in float32 that is rounding. Seen: 4e-6."""
PASSES = {"forward": False, "forward + backward": True}

Group = tuple[int, Sequence[int]]
"""Tokens of a prompt and of each of its completions."""
Piece = tuple[Scores, Batch]
Way = Callable[[Models, Batch], Iterator[Piece]]
"""Scores a batch piece by piece."""


def model(hidden: int, layers: int) -> Models:
    """Random blocks in the proportions of Qwen3-0.6B, in float32."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=WORDS, hidden_size=hidden, intermediate_size=3 * hidden,
        num_hidden_layers=layers, num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128, head_dim=128, max_position_embeddings=1 << 20,
        tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Qwen3ForCausalLM(config).eval()
    lm = LM(network, load("tiny").tokenizer, f"Qwen3 of width {hidden}")
    assert lm.shares
    return Models(lm)


def batch(groups: Sequence[Group], seed: int) -> Batch:
    """Random tokens in groups of these lengths, each own token with a weight of its own."""
    random = torch.Generator().manual_seed(seed)

    def draw(count: int) -> list[int]:
        return torch.randint(WORDS, (count,), generator=random).tolist()

    prompts, completions, numbers = [], [], []
    for number, (prompt, sizes) in enumerate(groups):
        head = draw(prompt)
        for size in sizes:
            prompts.append(head)
            completions.append(draw(size))
            numbers.append(number)
    problem = Problem("")
    task = Task("lengths", [problem], [], lambda p: [], lambda p: [], lambda p, text: False)
    found = batch_of([problem] * len(prompts), prompts, completions, task, group=numbers)
    weight = torch.rand(found.own.shape, generator=random) * found.own
    return found.put(weight=weight / weight.sum())


def tokens(groups: Sequence[Group]) -> int:
    """How many must be read."""
    return sum(prompt + sum(sizes) for prompt, sizes in groups)


def bound(groups: Sequence[Group], seed: int) -> tuple[Batch, float]:
    """Rows of equal length to be read instead, and how many times they are what must be read."""
    pairs = sum(p * p / 2 + sum(s * p + s * s / 2 for s in sizes) for p, sizes in groups)
    needed, asked = tokens(groups), sum(sum(sizes) for _, sizes in groups)
    length = max(2, round(2 * pairs / needed))
    rows = max(1, round(needed / length))
    own = min(length - 1, max(1, round(length * asked / needed)))
    return batch([(length - own, [own])] * rows, seed), rows * length / needed


def packed(models: Models, rows: Batch) -> Iterator[Piece]:
    """As the library does by itself."""
    models.pack = True
    yield models.score(plain(rows), rows), rows


def padded(models: Models, rows: Batch) -> Iterator[Piece]:
    """One rectangle."""
    models.pack = False
    yield models.score(plain(rows), rows), rows


@dataclass
class Measured:
    """Of each way, a number for each batch: seconds per 1,000 needed tokens; needed / fed."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    share: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, one: str, other: str) -> tuple[float, float]:
        """The 95% interval of the ratio of medians, by a bootstrap over batches."""
        both = np.array([self.seconds[one], self.seconds[other]])
        drawn = np.random.default_rng(0).integers(both.shape[1], size=(4000, both.shape[1]))
        first, second = np.median(both[:, drawn], -1)
        return percentiles(first / second)


def gradients(models: Models) -> torch.Tensor:
    return torch.cat([weight.grad.flatten() for weight in models.policy.model.parameters()])


def run(way: Way, models: Models, rows: Batch, grad: bool) -> float:
    """Score a batch, and go back through it with `grad`; the weighted sum of log-probabilities."""
    total = 0.0
    models.policy.model.zero_grad(set_to_none=True)
    with torch.set_grad_enabled(grad):
        for scores, piece in way(models, rows):
            loss = (scores.logp * piece.take("weight")).sum()
            if grad:
                loss.backward()
            total += float(loss.detach())
    return total


def check(models: Models, ways: Mapping[str, Way], rows: Batch) -> float:
    """Largest relative difference of losses and gradients; `AssertionError` beyond rounding.

    Each own token has another weight, so that equal gradients are equal log-probabilities.
    """
    worst, expected = 0.0, None
    for name, way in ways.items():
        loss = run(way, models, rows, grad=True)
        found = loss, gradients(models)
        expected = expected or found
        gap = float((found[1] - expected[1]).norm() / expected[1].norm())
        worst = max(worst, gap, abs(found[0] / expected[0] - 1))
        assert worst < TOLERANCE, f"{name} differs by {worst:.2g}"
    models.policy.model.zero_grad(set_to_none=True)
    return worst


def measure(
    models: Models, ways: Mapping[str, Way], batches: Sequence[Sequence[Group]], grad: bool
) -> Measured:
    """Every way with every batch, taking turns. The bound runs beside them as a way of its own.

    With one thread seconds are those of the processor: other programs do not count.
    """
    found, fed = Measured(), []
    names = [*ways, "bound"]
    clock = 1 if torch.get_num_threads() > 1 else 2
    trunk = models.policy.base.base_model
    hook = trunk.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for seed, groups in enumerate(batches):
        rows, (even, scale) = batch(groups, seed), bound(groups, seed)
        for name in names[seed % len(names) :] + names[: seed % len(names)]:
            way, given, much = (padded, even, scale) if name == "bound" else (ways[name], rows, 1.0)
            fed.clear()
            taken = timed("cpu", partial(run, way, models, given, grad))[clock]
            needed = tokens(groups)
            found.seconds.setdefault(name, []).append(1000 * taken / needed / much)
            found.share.setdefault(name, []).append(needed * much / sum(fed))
    hook.remove()
    return found


@dataclass
class Report:
    """Rows for the table, and the intervals of their ratios in words."""

    rows: list[Row] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def compare(
        self,
        title: str,
        models: Models,
        ways: Mapping[str, Way],
        batches: Sequence[Sequence[Group]],
        *,
        shares: bool,
    ) -> None:
        """All ways over these batches, forward and back, after a check that they agree."""
        gap = check(models, ways, batch(batches[0], 0))
        sizes = [tokens(each) for each in batches]
        width = models.policy.base.config.hidden_size
        print(f"{title}, D={width}: {sizes} tokens; the ways agree to {gap:.1g}", flush=True)
        for name, grad in PASSES.items():
            found = measure(models, ways, batches, grad)
            self.add(f"{title}, D={width}, {name}", found)
        if shares:
            self.shares(title, found)

    def add(self, title: str, found: Measured) -> None:
        """Ours, the first way, against every other."""
        ours, *others = found.seconds
        for name in others:
            medians = (float(np.median(found.seconds[each])) for each in (ours, name))
            self.rows.append(Row(f"{title}: s / 1,000 tokens", *medians, name))
            low, high = found.ratio(ours, name)
            line = f"{title}: ours / {name} {self.rows[-1].ratio:.3f} [{low:.3f}, {high:.3f}]"
            self.lines.append(line)
            print(line, flush=True)

    def shares(self, title: str, found: Measured) -> None:
        """Needed tokens of all that were fed."""
        means = {name: float(np.mean(each)) for name, each in found.share.items()}
        ours, *others = (name for name in means if name != "bound")
        for name in others:
            row = Row(f"{title}: needed / fed tokens", means[ours], means[name], name)
            self.rows.append(row)


def options(name: str, introduction: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=introduction.partition("\n\n")[0]
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 1024], metavar="D")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="batches (default 5)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    return parser


def finish(title: str, report: Report, file: Path | None) -> None:
    show(title, report.rows)
    print("With the 95% intervals of the ratios, by a bootstrap over batches:")
    print("\n".join(report.lines))
    if file is not None:
        write(file, report.rows)
