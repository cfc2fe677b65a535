"""Small things that the tests share: random models in memory, a toy task, laws over three words."""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from autodidact.auxiliary import Auxiliary, Trained
from autodidact.batch import Batch
from autodidact.divergence import Divergence
from autodidact.engine import Request
from autodidact.engines.local import Local
from autodidact.head import Head
from autodidact.model import LM
from autodidact.problem import Problem, Task
from autodidact.scores import Scores
from autodidact.store import Completion

WORDS = 261
"""Vocabulary of the shipped tokenizer: five special tokens and 256 bytes."""

KINDS = [
    Divergence("forward"),
    Divergence("reverse"),
    Divergence("tv"),
    Divergence("jsd", 0.3),
    Divergence("jsd", 0.8, rescale=True),
]
LISTS = ("student", "teacher", "union", "intersection")
FORMS = ("raw", "renormalised", "tail")
"""Every divergence, and over which words it may run, in the tests that go through them all."""


@contextmanager
def no_hang(seconds: float = 120.0) -> Iterator[None]:
    """End the process with a traceback, of C code too, where the body takes hundreds of times as long
    as it should. No other time decides a test: a busy machine may take its time.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def taught(trained: Trained, auxiliary: Auxiliary, pieces: list[Batch], clip: float) -> float:
    """One update of a network beside the policy. Returns the loss before it."""
    loss, _ = trained.backward(auxiliary, pieces, clip)
    trained.step()
    trained.forget()
    return loss


def generate(lm, prompts, samples, length, law, seed, slots=256) -> list[list[Completion]]:
    """Completions by the local engine: for each prompt those of these numbers."""
    asked = [
        Request(tuple(prompt), number, length)
        for prompt, numbers in zip(prompts, samples, strict=True)
        for number in numbers
    ]
    found = iter(Local(slots).draw(lm, asked, law, seed).completions)
    return [[next(found) for _ in numbers] for numbers in samples]


def random_qwen(tokenizer, seed: int = 0, dtype: torch.dtype = torch.float64, **options) -> LM:
    """A random two-layer Qwen3, exact in float64: transformers' own norm computes in float32.

    A sixth of its words end a completion, so that lengths differ.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    settings = {
        "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "max_position_embeddings": 256, "initializer_range": 0.3, "tie_word_embeddings": False,
        "eos_token_id": 4, "pad_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(Qwen3Config(**settings | options))
    model.generation_config.eos_token_id = list(range(4, WORDS, 6))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "Qwen3RMSNorm":
                norm = torch.nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon)
                setattr(parent, name, norm)
    return LM(model.to(dtype).eval(), tokenizer, "random Qwen3")


def random_masked(tokenizer, seed: int = 0, **options) -> LM:
    """`random_qwen` as a masked language model: it reads both ways, and word 0 is its mask."""
    lm = random_qwen(tokenizer, seed, **options)
    lm.model.config.is_causal, lm.model.config.mask_token_id = False, 0
    return lm


@torch.no_grad()
def perturb(lm: LM, size: float = 0.02, seed: int = 1) -> None:
    """Move every trained weight a little, as some updates would."""
    random = torch.Generator().manual_seed(seed)
    for weight in lm.model.parameters():
        if weight.requires_grad:
            weight += size * torch.randn(weight.shape, generator=random, dtype=weight.dtype)


def graded(text: str) -> float:
    """A reward of 0, 1/2 or 1 that any text earns, spread evenly over random texts."""
    return sum(text.encode()) % 3 / 2


def echo(problem, said) -> str:
    """A tool that answers the same to everything."""
    return "so"


def toy_task(problems: int = 4, told: bool = True) -> Task:
    """Sums with solutions of different lengths; `told=False` shows the teacher no solution."""
    rows = [
        Problem(
            f"{i}+{i * i}",
            f"{i}+{i * i}={i + i * i}" + "." * (i % 3),
            str(i + i * i),
            {"chosen": str(i + i * i), "rejected": "no" + "!" * (i % 4)},
        )
        for i in range(1, problems + 1)
    ]

    def prompt(problem):
        return [{"role": "user", "content": problem.question}]

    def privileged(problem):
        text = f"{problem.question}\nsolution:\n{problem.solution}"
        return [{"role": "user", "content": text}] if told else prompt(problem)

    return Task(
        "toy",
        train=rows,
        test=[Problem(f"{i}+1", f"{i}+1={i + 1}", str(i + 1)) for i in range(20, 24)],
        prompt=prompt,
        privileged=privileged,
        correct=lambda problem, text: graded(text) == 1,
        reward=lambda problems, texts: [graded(text) for text in texts],
        final=lambda text: text[:1] or None,
    )


def laws(logits: torch.Tensor, targets, asked=None, temperature: float = 1.0) -> Scores:
    """Scores whose logits are given, [N, V]: gradients in `hidden` are those in the logits."""
    words = logits.shape[-1]
    asked = torch.ones(1, len(logits), dtype=torch.bool) if asked is None else asked
    head = Head(torch.eye(words, dtype=logits.dtype))
    return Scores(logits, head, asked, torch.as_tensor(targets), temperature)


def random_logits(*shape: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return (size * torch.randn(shape, generator=random, dtype=torch.float64)).requires_grad_()


def rows_of(lengths, rewards=None, task: Task | None = None, prompt: int = 1, **streams) -> Batch:
    """One row for each length of completion over three words, after `prompt` tokens.

    All rows form one group. Token streams are given flat, in row-major order of the own tokens.
    """
    width = prompt + max(lengths)
    columns = torch.arange(width)
    size = torch.tensor(lengths)[:, None]
    real = columns < prompt + size
    own = real & (columns >= prompt)
    ids = (torch.arange(len(lengths))[:, None] + columns) % 3
    group = torch.zeros(len(lengths), dtype=torch.long)
    rows = tuple(Problem(str(i)) for i in range(len(lengths)))
    batch = Batch(ids, real, own, group, rows, task or toy_task())
    if rewards is not None:
        batch = batch.put(reward=torch.as_tensor(rewards, dtype=torch.float64))
    for name, values in streams.items():
        value = torch.as_tensor(values, dtype=torch.float64)
        empty = torch.zeros(own.shape, dtype=torch.float64)
        whole = value if value.shape == batch.group.shape else empty.masked_scatter(own, value)
        batch = batch.put(**{name: whole})
    return batch


def about(batch: Batch, logits: torch.Tensor, temperature: float = 1.0) -> Scores:
    """`laws` for the own tokens of a batch, in row-major order."""
    return laws(logits, batch.ids[batch.own], batch.own, temperature)


def padded(batch: Batch, columns: int = 3, rubbish: float = 3.0) -> Batch:
    """The batch with further columns that hold no token, only rubbish."""

    def wide(value: torch.Tensor) -> torch.Tensor:
        fill = False if value.dtype == torch.bool else type(value.flatten()[0].item())(rubbish)
        sides = (0, 0) * (value.dim() - 2) + (0, columns)
        return torch.nn.functional.pad(value, sides, value=fill)

    return replace(
        batch, ids=wide(batch.ids), real=wide(batch.real), own=wide(batch.own),
        streams={n: wide(v) if v.dim() > 1 else v for n, v in batch.streams.items()},
    )  # fmt: skip


def renumbered(batch: Batch) -> Batch:
    """The same groups under other, descending and spaced, numbers."""
    return replace(batch, group=1000 - 17 * batch.group)


def photograph(batch: Batch) -> dict[str, torch.Tensor]:
    """Copies of every tensor of a batch."""
    fields = {name: getattr(batch, name) for name in ("ids", "real", "own", "group")}
    return {name: value.clone() for name, value in {**fields, **batch.streams}.items()}


def two_pairs() -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Two pairs of unequal lengths, (3, 2) and (1, 4) tokens, and logits of policy and reference."""
    batch = rows_of([3, 2, 1, 4], side=[1.0, -1.0, 1.0, -1.0])
    batch = replace(batch, group=torch.tensor([0, 0, 1, 1]))
    return batch, random_logits(10, 3), random_logits(10, 3, seed=1)


def pair_loss(method, batch: Batch, policy: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The loss of a batch of pairs, given the logits of policy and reference."""
    scores = {"policy": about(batch, policy), "reference": about(batch, reference)}
    return (method.loss(scores, batch) * method.weigh(batch)).sum()
