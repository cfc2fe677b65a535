"""Trains the shipped masked model from nothing: `python recipes/tiny_diffusion.py --out DIR`.

A GPT-2 of about 150,000 parameters that reads both ways. It fills 4x4 Sudoku grids in place: the
canvas is the 16 cells, the clues stand in it and the rest is hidden. Its loss is that of masked
diffusion: a share t of the empty cells is hidden, t uniform, and each hidden one counts 1 / t.

The accuracy on unseen grids stays at chance for a third of the time and then rises sharply: the
cosine of the learning rate has to outlive that plateau. Two checkpoints are written: one on the
way up, as a start for reinforcement learning, and the last.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from autodidact.tasks.sudoku import sudoku

WORDS = ["<|pad|>", "<|mask|>", "<|end|>", *"0123456789+-*/=()., :\n"]
STEPS, SIZE, LR = 600, 64, 1e-3
EARLY = 180
"""Steps after which the first checkpoint is written."""


@dataclass(frozen=True)
class Data:
    """Grids and which of their cells were empty, both [n, 16]."""

    ids: torch.Tensor
    empty: torch.Tensor


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<|pad|>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>", mask_token="<|mask|>",
        unk_token="<|pad|>", model_max_length=64, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def network(words: int = len(WORDS), width: int = 64, layers: int = 3) -> GPT2LMHeadModel:
    """An untrained GPT-2 that reads both ways, with learned positions."""
    config = GPT2Config(
        vocab_size=words, n_positions=64, n_embd=width, n_layer=layers, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=2,
        pad_token_id=0, dtype="float32",
    )  # fmt: skip
    config.is_causal, config.mask_token_id, config.output_shift = False, 1, 0
    model = GPT2LMHeadModel(config)
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=2)
    return model


def data(problems, words: PreTrainedTokenizerFast) -> Data:
    ids = torch.tensor([words(p.answer)["input_ids"] for p in problems])
    empty = torch.tensor([[cell == "0" for cell in p.meta["puzzle"]] for p in problems])
    return Data(ids, empty)


def train(model: GPT2LMHeadModel, train: Data, test: Data, out: Path, words) -> None:
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min((i + 1) / 100, 0.5 * (1 + math.cos(math.pi * i / STEPS))),
    )
    started = time.process_time()
    for step in range(1, STEPS + 1):
        chosen = torch.randint(len(train.ids), (SIZE,), generator=random)
        ids, empty = train.ids[chosen], train.empty[chosen]
        share = torch.rand(SIZE, 1, generator=random) * 0.999 + 0.001
        hidden = empty & (torch.rand(ids.shape, generator=random) < share)
        logits = model(torch.where(hidden, 1, ids)).logits
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        loss = (nll * hidden / share).sum() / empty.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 40 == 0 or step in (EARLY, STEPS):
            exact, cells = accuracy(model, test)
            spent = time.process_time() - started
            print(f"{step:5d}  exact {exact:.3f}  cells {cells:.3f}  {spent:.0f} s", flush=True)
        if step in (EARLY, STEPS):
            place = out / ("early" if step == EARLY else "last")
            model.save_pretrained(place)
            words.save_pretrained(place)


@torch.no_grad()
def accuracy(model: GPT2LMHeadModel, test: Data) -> tuple[float, float]:
    """Share of grids and of cells that are right, written one cell at a time, the surest first."""
    ids, hidden = torch.where(test.empty, 1, test.ids), test.empty.clone()
    while hidden.any():
        law = model(ids).logits.softmax(-1)
        law[..., 1] = 0
        sure, word = law.max(-1)
        best = torch.where(hidden, sure, -1.0).argmax(1, keepdim=True)
        rows = hidden.any(1)
        ids[rows] = ids[rows].scatter(1, best[rows], word.gather(1, best)[rows])
        hidden[rows] = hidden[rows].scatter(1, best[rows], False)
    right = ids == test.ids
    return float(right.all(1).float().mean()), float(right[test.empty].float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    words, model = tokenizer(), network()
    easy = sudoku(empties=(6, 10), wording="terse", train=6000, test=0)
    hard = sudoku(empties=8, wording="terse", train=0, test=500)
    print(f"{sum(p.numel() for p in model.parameters())} parameters")
    train(model, data(easy.train, words), data(hard.test, words), given.out, words)


if __name__ == "__main__":
    main()
