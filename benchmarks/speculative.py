"""What speculative decoding gains over plain decoding: `python -m benchmarks.speculative`.

The target is a random Qwen3 of 12 layers, 512 numbers and 4,096 words. The draft is its first two
layers under the same head. What the other layers add to the hidden state is scaled by s: at 0 both
models are the same function, and the larger s, the fewer proposals stand. The last norm is scaled
so that laws are peaked, as those of trained models are.

tokens / s      ours: the speculative engine; peer: the local engine, which decodes plainly
tokens / call   ours: tokens drawn for each reading of the target; peer: what independent
                acceptances at the measured rate a give in texts without end,
                (1 - a^(g+1)) / (1 - a)

Batches of 1, 4 and 16 prompts of 32 tokens, completions of 96, temperature 1. Both engines draw
from the same law; what that is worth is tested in `tests/test_speculative.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autodidact.engine import Engine, Request
from autodidact.engines.accept import block_efficiency
from autodidact.engines.local import Local
from autodidact.engines.speculative import Speculative
from autodidact.law import Law
from autodidact.model import LM
from benchmarks.measuring import timed
from benchmarks.random_model import WORDS, Silent, random_qwen
from benchmarks.table import Row, machine, show, write

PROMPT = 32
PEAKED = 6.0
"""Scale of the last norm: logits with a standard deviation of about three."""


@dataclass(frozen=True)
class Sizes:
    hidden: int = 512
    layers: int = 12
    kept: int = 2
    new: int = 96
    batches: tuple[int, ...] = (1, 4, 16)
    guesses: tuple[int, ...] = (2, 4, 8)
    scales: tuple[float, ...] = (0.0, 0.05, 0.15, 0.4)


QUICK = Sizes(64, 3, 1, 12, (1, 3), (2,), (0.0, 0.4))


@torch.no_grad()
def pair(sizes: Sizes, scale: float) -> tuple[LM, LM]:
    """The target, whose upper layers add so much less, and the draft without them."""
    target, draft = (random_qwen(sizes.hidden, n) for n in (sizes.layers, sizes.kept))
    for layer in target.model.layers[sizes.kept :]:
        layer.self_attn.o_proj.weight *= scale
        layer.mlp.down_proj.weight *= scale
    target.model.norm.weight *= PEAKED
    weights = target.state_dict()
    draft.load_state_dict({name: weights[name] for name in draft.state_dict()})
    return LM(target, Silent(), "target"), LM(draft, Silent(), "draft")


def requests(batch: int, new: int, seed: int) -> list[Request]:
    random = torch.Generator().manual_seed(seed)
    prompts = torch.randint(2, WORDS // 2, (batch, PROMPT), generator=random).tolist()
    return [Request(tuple(prompt), 0, new) for prompt in prompts]


def speed(engine: Engine, lm: LM, batch: int, new: int, seed: int) -> float:
    """Tokens a second of the processor with one thread, of the clock with several."""
    asked = requests(batch, new, seed)
    drawn, wall, cpu = timed("cpu", lambda: engine.draw(lm, asked, Law(), seed))
    count = sum(len(each.ids) for each in drawn.completions)
    return count / (cpu if torch.get_num_threads() == 1 else wall)


def measured(sizes: Sizes, scale: float, batch: int, repeats: int) -> list[Row]:
    """Medians over prompts, both engines in turn; the first prompts are a rehearsal."""
    target, draft = pair(sizes, scale)
    plain, found = Local(), []
    for guess in sizes.guesses:
        engine = Speculative(draft, guess)
        rates: dict[str, list[float]] = {"ours": [], "plain": []}
        judged = accepted = calls = 0
        for seed in range(-1, repeats):
            sides = [("ours", engine), ("plain", plain)]
            for side, each in sides if seed % 2 else sides[::-1]:
                rate = speed(each, target, batch, sizes.new, seed + 1)
                if seed >= 0:
                    rates[side].append(rate)
            if seed >= 0:
                judged += engine.tally.judged
                accepted += engine.tally.accepted
                calls += engine.tally.calls
        share = accepted / judged
        case = f"acceptance {share:.2f} (s={scale:g}), batch {batch}, guess {guess}"
        medians = [float(np.median(rates[side])) for side in ("ours", "plain")]
        formula = block_efficiency(share, guess)
        found.append(Row(f"{case}: tokens / s", *medians, "plain decoding"))
        found.append(Row(f"{case}: tokens / call", judged / calls, formula, "formula"))
        print(
            f"{case}: {found[-2].ratio:.2f} times plain decoding, "
            f"{found[-1].ours:.2f} tokens / call (formula {found[-1].peer:.2f})",
            flush=True,
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speculative", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--hidden", type=int, default=Sizes.hidden, metavar="D")
    parser.add_argument("--layers", type=int, default=Sizes.layers)
    parser.add_argument("--kept", type=int, default=Sizes.kept, help="layers of the draft")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small models, once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(arguments)
    sizes = Sizes(options.hidden, options.layers, options.kept)
    if options.quick:
        sizes, options.repeats = QUICK, 1
    torch.set_num_threads(options.threads)
    print(machine())
    rows: list[Row] = []
    for scale in sizes.scales:
        for batch in sizes.batches:
            rows += measured(sizes, scale, batch, options.repeats)
    show("Speculative decoding", rows)
    if options.json is not None:
        write(options.json, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
