"""What stands in for log p of a masked model: how far off is each, and how much does it vary?

Python -m recipes.studies.likelihoods --out DIR: a table, a chart for each model, and the numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from recipes.studies.tabular import Tabular, bound, everything, exact

from autodidact.batch import Batch
from autodidact.engine import Request
from autodidact.engines.denoise import Denoise
from autodidact.law import Law
from autodidact.losses.likelihood import ORDERED, Likelihood
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.report.charts import Line, chart
from autodidact.rollouts.sample import sampled_batch
from autodidact.tasks.sudoku import sudoku

DRAWS = (1, 2, 4, 8)
BLOCK = {"sudoku": 4}
"""Places of a block, of the kind "block"; 2 elsewhere."""


@dataclass(frozen=True)
class Found:
    """How a surrogate compares with the exact log p of texts that the model drew, in nats.

    Attributes:
        canvases: read for each text.
        bias: the mean of surrogate - log p.
        uneven: the deviation of that gap from text to text. What all texts share drops out of a
            group's comparison; this does not.
        noise: the deviation of one text's value from update to update.
        error: the root of the mean square of surrogate - log p.
    """

    model: str
    kind: str
    draws: int
    canvases: float
    bias: float
    uneven: float
    noise: float
    error: float


@dataclass(frozen=True)
class Case:
    """Texts of a model, with their exact log p and its bound."""

    name: str
    models: Models
    batch: Batch
    truth: torch.Tensor
    least: torch.Tensor


def drawn(name: str, lm: LM, requests: Sequence[Request]) -> Case:
    """One text for each request, written in a random order, one token at a step."""
    found = Denoise(order="random").draw(lm, requests, Law(), 0).completions
    problem = Problem("a canvas")
    task = Task(name, [problem], [], lambda _: [], lambda _: [])
    prompts = [request.prompt for request in requests]
    batch = sampled_batch([problem] * len(found), prompts, [[c] for c in found], task, Law())
    truth, least = [], []
    for prompt, completion in zip(prompts, found, strict=True):
        assert completion.order is not None
        written = [place for place, step in enumerate(completion.order) if step]
        logp = everything(lm, prompt, torch.tensor([completion.ids]), written)
        truth.append(exact(logp))
        least.append(bound(logp))
    models = Models(lm)
    models.pack = False
    return Case(name, models, batch, torch.cat(truth), torch.cat(least))


def transformer(words: int, seed: int = 0) -> LM:
    """A random transformer that reads both ways, over a few words and a mask."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=words + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=16, initializer_range=0.35,
        tie_word_embeddings=False, is_causal=False, mask_token_id=words,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).double().eval()
    return LM(model, load("tiny").tokenizer, "a random transformer")


def cases(texts: int) -> Iterator[Case]:
    """A table, a random transformer, and the shipped model at grids with eight empty cells."""
    free = [Request((1,), number, 4) for number in range(texts)]
    yield drawn("table", LM(Tabular(4), load("tiny").tokenizer, "a table"), free)
    yield drawn("transformer", transformer(6), [Request((1,), k, 6) for k in range(texts)])
    lm = load("tiny_diffusion")
    task = sudoku(canvas=True, wording="terse")
    assert task.canvas is not None
    grids = [tuple(task.canvas(problem)) for problem in task.test]
    some = [grid for grid in grids if grid.count(None) == 8][:texts]
    places = [tuple(None if text is None else lm.encode(text)[0] for text in grid) for grid in some]
    yield drawn("sudoku", lm, [Request((), k, 16, canvas=each) for k, each in enumerate(places)])


def readings(name: str) -> Iterator[Likelihood]:
    size = BLOCK.get(name, 2)
    yield Likelihood("one_step")
    yield Likelihood("trace")
    yield Likelihood("left")
    for draws in DRAWS:
        yield Likelihood("elbo", draws)
        yield Likelihood("bernoulli", draws)
        yield Likelihood("complement", draws)
        yield Likelihood("block", draws, block=size)


@torch.no_grad()
def measured(case: Case, reading: Likelihood, updates: int) -> Found:
    """A reading of all texts, with new noise for each of several updates."""
    rows, fixed = [], reading.kind in (*ORDERED, "one_step")
    for update in range(1 if fixed else updates):
        case.models.ledger.optimizer_steps = update
        noisy = reading.credit(case.batch, case.models)
        rows.append(noisy.take("before").double().sum(1))
    views = reading.views(noisy, case.models, "policy", "policy", grad=False)
    canvases = sum(len(view.ids) for view in views.values()) / len(case.batch)
    values = torch.stack(rows)
    if reading.kind == "block":
        # Its tokens weigh one over the number of blocks on average.
        places = int(case.batch.take("canvas")[0].sum())
        values = values * -(-places // reading.block)
    gap = values - case.truth
    noise = 0.0 if fixed else float(gap.var(0).mean())
    # The noise that is left in the means of the texts is none of their differences.
    uneven = max(0.0, float(gap.mean(0).var()) - noise / len(rows))
    return Found(
        case.name, reading.kind, reading.draws, canvases, float(gap.mean()),
        uneven**0.5, noise**0.5, float((gap**2).mean() ** 0.5),
    )  # fmt: skip


def table(found: Sequence[Found], case: Case) -> str:
    """One model's readings as Markdown."""
    gap = float((case.least - case.truth).mean())
    head = (
        f"**{case.name}**: {len(case.batch)} texts, log p {float(case.truth.mean()):.2f} on "
        f"average, its lower bound over random orders {-gap:.3f} below.\n\n"
        "| likelihood | draws | canvases | bias | uneven | noise | error |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {f.kind} | {f.draws} | {f.canvases:.0f} | {f.bias:+.3f} | {f.uneven:.3f} | "
        f"{f.noise:.3f} | {f.error:.3f} |\n"
        for f in found
    )


def picture(found: Sequence[Found], name: str) -> str:
    """Error against canvases read, a line for each kind with noise, a mark for the others."""
    kinds = list(dict.fromkeys(f.kind for f in found))
    lines = []
    for hue, kind in enumerate(kinds):
        some = [f for f in found if f.kind == kind]
        lines.append(Line(kind, hue, [f.canvases for f in some], [f.error for f in some]))
    alt = f"{name}: error of each likelihood, in nats, against canvases read for a text"
    return chart(f"likelihoods-{name}", lines, alt=alt, size=(560, 320), room=90)


def likelihoods(out: Path | str, texts: int = 64, updates: int = 20) -> Path:
    """Measure every likelihood on three models.

    Args:
        out: a folder, which gets likelihoods.md, likelihoods.json and a chart for each model.
        texts: of each model, drawn by itself.
        updates: new noise so many times.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    parts, everything_found = [], []
    for case in cases(texts):
        found = [measured(case, reading, updates) for reading in readings(case.name)]
        parts.append(table(found, case))
        everything_found += [asdict(each) for each in found]
        (folder / f"likelihoods-{case.name}.svg").write_text(picture(found, case.name))
    (folder / "likelihoods.md").write_text("\n".join(parts))
    (folder / "likelihoods.json").write_text(json.dumps(everything_found, indent=1))
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    likelihoods(parser.parse_args().out)
