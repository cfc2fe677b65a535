"""A small any-subset model learns strings of digits: `python -m recipes.any_subset`.

The strings are arithmetic progressions modulo 7: of two known digits all others follow, of one or
none they are free, yet not of one another. After about half a minute the model fills any gaps. It
then writes whole strings in three ways: one place after the other, by any-subset speculative
decoding, which has the same law by fewer readings, and all at once, which has another one.

right       per cent of strings that are progressions
readings    of the model for one string
stood       per cent of the proposals judged that stood
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autodidact.engine import Request
from autodidact.engines.assd import Assd
from autodidact.lab.anysubset import AnySubset, hide, loss, masking_rate
from autodidact.law import Law

BASE, PLACES = 7, 8
WIDTH, LAYERS, ROWS, LR = 64, 3, 64, 2e-3


def strings() -> torch.Tensor:
    """All progressions, [49, 8]; the digit d is the word d + 1, and 0 is the mask."""
    first, step = torch.meshgrid(torch.arange(BASE), torch.arange(BASE), indexing="ij")
    row = first.flatten()[:, None] + step.flatten()[:, None] * torch.arange(PLACES)
    return row % BASE + 1


def train(steps: int, seed: int = 0, places: int = PLACES) -> AnySubset:
    """The model after so many steps; gaps grow to nearly everything in the first half of them."""
    random, data = torch.Generator().manual_seed(seed), strings()[:, :places]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AnySubset(BASE + 1, places, WIDTH, LAYERS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    for step in range(steps):
        ids = data[torch.randint(len(data), (ROWS,), generator=random)]
        rates = masking_rate(step, steps // 2, final=(0.15, 1.0))
        lost = loss(model, ids, hide((ROWS, places), rates, random))
        optimizer.zero_grad()
        lost.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


class AtOnce:
    """A model whose places do not read what is drawn beside them."""

    def __init__(self, model: AnySubset):
        self.model, self.mask = model, model.mask

    def __call__(self, ids: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
        return self.model(ids, rank.clamp(max=1))


@dataclass(frozen=True)
class Found:
    """What one way of writing gave."""

    name: str
    right: float
    readings: float
    stood: float | None

    def __str__(self) -> str:
        stood = "" if self.stood is None else f"{100 * self.stood:.1f}"
        return f"{self.name:<14}{100 * self.right:>8.1f}{self.readings:>10.2f}{stood:>8}"


def write(model: AnySubset, samples: int = 500, seed: int = 0) -> list[Found]:
    """Strings from nothing, in the three ways."""
    places = model.place.num_embeddings
    wanted = [Request((), number, places) for number in range(samples)]
    known = {tuple(row) for row in strings()[:, :places].tolist()}
    found = []
    for name, reader, guess in (
        ("one by one", model, 1),
        ("speculative", model, 5),
        ("all at once", AtOnce(model), places),
    ):
        engine = Assd(guess)
        drawn = engine.draw(reader, wanted, Law(), seed)
        right = sum(tuple(each.ids) in known for each in drawn.completions) / samples
        stood = engine.tally.acceptance if guess > 1 else None
        found.append(Found(name, right, drawn.calls / samples, stood))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.any_subset", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    began = time.process_time()
    model = train(options.steps, options.seed)
    count = sum(weight.numel() for weight in model.parameters())
    print(f"{count} parameters, {time.process_time() - began:.0f} s of the processor")
    print(f"{'':<14}{'right':>8}{'readings':>10}{'stood':>8}")
    for each in write(model, seed=options.seed):
        print(each)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
