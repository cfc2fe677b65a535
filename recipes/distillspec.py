"""DistillSpec from end to end: `python -m recipes.distillspec`.

The target is the shipped tiny model. The draft is its first layer (of three) under the same
embeddings, taught for a while to imitate what the target writes: the start. From there it is
distilled with each divergence on its own text, every arm for the same number of updates; the
control goes on imitating. Results and what they do not show: `docs/studies/distillspec.md`.

a           mean over tokens of 1 - TV(draft, target), at the temperature of decoding, on what
            speculative decoding writes for held-out questions
stood       the share of proposals that really stood there
z           (stood - a) over its standard deviation, sqrt(sum_t a_t (1 - a_t)): of order one if the
            engine keeps what theory says
tok / call  tokens for each reading of the target
speed-up    tokens a second of speculative over plain decoding, in seconds of the processor: the
            median of pairs, one run after the other. First with the target as it is, three layers
            to the draft's one, then with a costly one: its hidden units and many more that add
            nothing, so that the same law takes the work of a real target
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import Qwen3ForCausalLM

from autodidact.divergence import Divergence
from autodidact.engine import Engine, Request
from autodidact.engines.local import Local
from autodidact.engines.speculative import Speculative
from autodidact.law import Law
from autodidact.losses.policy import nll
from autodidact.method import Method
from autodidact.methods.distillspec import distillspec
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.rollouts.role import FromRole
from autodidact.rollouts.sample import sampled_batch
from autodidact.run import Run
from autodidact.store import Completion
from autodidact.tasks.random_calculation import tiny_calculation
from autodidact.train import Training
from autodidact.view import plain

LENGTH = 40
DIVERGENCES = ("forward", "reverse", "jsd", "tv")


@dataclass(frozen=True)
class Sizes:
    """How long and how often.

    Attributes:
        layers: of the draft.
        begin, steps: updates until the start, and from there on.
        held: questions on which acceptance is measured.
        batch, repeats: questions answered at a time, and pairs of runs, for the speed-up.
        width: hidden units in a layer of the costly target.
    """

    layers: int = 1
    begin: int = 50
    steps: int = 40
    rows: int = 48
    seeds: int = 2
    held: int = 200
    guess: int = 2
    temperature: float = 1.0
    batch: int = 4
    repeats: int = 3
    width: int = 16384
    lr: float = 2e-3


QUICK = Sizes(begin=8, steps=8, rows=16, seeds=1, held=32, repeats=1, width=512)


@dataclass(frozen=True)
class Found:
    """One draft, measured."""

    arm: str
    seed: int
    acceptance: float
    stood: float
    z: float
    efficiency: float
    speedup: float
    costly: float


@torch.no_grad()
def reshaped(layers: int = 3, width: int = 192) -> LM:
    """The target's first layers, with so many hidden units: those beyond its own add nothing."""
    found = load("tiny")
    weights, config = found.model.state_dict(), found.model.config
    config.num_hidden_layers, config.layer_types = layers, config.layer_types[:layers]
    config.intermediate_size = width
    with torch.random.fork_rng():
        model = Qwen3ForCausalLM(config).eval()
    for name, value in model.state_dict().items():
        value.zero_()[tuple(map(slice, weights[name].shape))] = weights[name]
    model.generation_config = found.model.generation_config
    return replace(found, model=model)


def save(lm: LM, folder: Path) -> None:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)


def trained(method: Method, folder: Path, task: Task, run: Run) -> LM:
    """The draft of that folder after a run."""
    models = Models(load(str(folder)))
    training = Training(method, models, task, run)
    for _ in range(run.steps or 0):
        training.advance()
    return models.policy


def imitation(sizes: Sizes) -> Method:
    """-log p of what the target writes."""
    return Method(FromRole(1, LENGTH, Law(sizes.temperature), "tiny"), nll)


def arms(sizes: Sizes) -> dict[str, Method]:
    """What follows the start."""
    on_policy = {
        kind: distillspec(1, LENGTH, kind, teacher="tiny", temperature=sizes.temperature)
        for kind in DIVERGENCES
    }
    return {"imitation": imitation(sizes), **on_policy}


def requests(lm: LM, task: Task, problems: Sequence[Problem]) -> list[Request]:
    return [Request(tuple(lm.render(task.prompt(each))), 0, LENGTH) for each in problems]


@torch.no_grad()
def chances(
    draft: LM, task: Task, problems: Sequence[Problem], written: Sequence[Completion], law: Law
) -> torch.Tensor:
    """1 - TV(draft, target) before every token that was written."""
    models = Models(draft)
    prompts = [draft.render(task.prompt(each)) for each in problems]
    batch = sampled_batch(problems, prompts, [[each] for each in written], task, law)
    scores = models.scores({"draft": plain(batch), "target": plain(batch, "tiny")}, batch)
    scores["draft"].divergence(scores["target"], Divergence("tv"))
    return 1 - scores["draft"].notes["tv"][batch.own]


def speed(engine: Engine, lm: LM, asked: Sequence[Request], law: Law, seed: int) -> float:
    """Tokens for each second of the processor."""
    started = time.process_time()
    drawn = engine.draw(lm, asked, law, seed)
    return sum(len(each.ids) for each in drawn.completions) / (time.process_time() - started)


def speedup(engine: Speculative, lm: LM, asked: Sequence[Request], law: Law, repeats: int) -> float:
    """The median of pairs; the first is a rehearsal."""
    local, ratios = Local(), []
    for seed in range(repeats + 1):
        plainly = speed(local, lm, asked, law, seed)
        ratios.append(speed(engine, lm, asked, law, seed) / plainly)
    return statistics.median(ratios[1:])


def measure(
    arm: str, seed: int, draft: LM, targets: tuple[LM, LM], task: Task, sizes: Sizes
) -> Found:
    """How often proposals stand, and what that is worth in time.

    Args:
        targets: the target, and the same law at more cost.
    """
    law, problems, target = Law(sizes.temperature), task.test[: sizes.held], targets[0]
    asked = requests(target, task, problems)
    engine = Speculative(draft, sizes.guess)
    written = engine.draw(target, asked, law, seed).completions
    tally = engine.tally
    stands = chances(draft, task, problems, written, law)
    assert len(stands) == tally.judged, "one proposal for every token"
    spread = float((stands * (1 - stands)).sum().sqrt())
    z, few = (tally.accepted - float(stands.sum())) / spread, asked[: sizes.batch]
    gains = [speedup(engine, each, few, law, sizes.repeats) for each in targets]
    return Found(arm, seed, float(stands.mean()), tally.acceptance, z, tally.efficiency, *gains)


def study(sizes: Sizes) -> list[Found]:
    """Every arm on every seed, and the start."""
    task, targets, found = tiny_calculation(), (reshaped(), reshaped(width=sizes.width)), []
    with TemporaryDirectory() as place:
        cut, start = Path(place) / "cut", Path(place) / "start"
        save(reshaped(sizes.layers), cut)
        for seed in range(sizes.seeds):
            run = Run(steps=sizes.begin, rows=sizes.rows, lr=sizes.lr, seed=seed, warmup=5)
            draft = trained(imitation(sizes), cut, task, run)
            save(draft, start)
            found.append(measure("start", seed, draft, targets, task, sizes))
            run = replace(run, steps=sizes.steps, seed=seed + 100, schedule="cosine")
            for arm, method in arms(sizes).items():
                draft = trained(method, start, task, run)
                found.append(measure(arm, seed, draft, targets, task, sizes))
                print(found[-1], flush=True)
    return found


def table(found: Sequence[Found]) -> str:
    """Means over seeds, the least and the largest a, and the largest |z|."""
    head = f"{'arm':<9} {'a':>6} {'(range)':>15} {'stood':>6} {'|z|':>5} {'tok/call':>8}"
    lines = [f"{head} {'speed-up':>8} {'(costly)':>8}"]
    for arm in dict.fromkeys(each.arm for each in found):
        of = [each for each in found if each.arm == arm]
        rates, largest = [each.acceptance for each in of], max(abs(each.z) for each in of)
        numbers = [(e.acceptance, e.stood, e.efficiency, e.speedup, e.costly) for e in of]
        a, stood, calls, gain, costly = map(statistics.mean, zip(*numbers, strict=True))
        lines.append(
            f"{arm:<9} {a:6.3f} ({min(rates):.3f} - {max(rates):.3f}) {stood:6.3f} {largest:5.2f} "
            f"{calls:8.2f} {gain:8.2f} {costly:8.2f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.distillspec", description=(__doc__ or "").partition("\n\n")[0]
    )
    names = ("layers", "steps", "seeds", "guess")
    for name in names:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--quick", action="store_true", help="small, on one seed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else Sizes()
    given = {name: v for name in names if (v := getattr(options, name)) is not None}
    print(table(study(replace(sizes, **given))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
