"""An untrained model for the task `modular_sum`: `python -m recipes.modular_sum --out DIR`.

A GPT-2 that reads both ways, of 26,000 parameters. It knows the digits and one word more, which
is its mask, its padding and its end at once: as a mask is never drawn, every canvas is of digits,
and before any training one answer in `base` is right. From there rewards alone teach it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from autodidact.model import LM
from autodidact.tasks.modular_sum import DIGITS

MASK = "<|mask|>"
SPREAD = 0.1
"""Standard deviation of the weights: with less, what a place says hardly depends on the others."""


def tokenizer(base: int = 5) -> PreTrainedTokenizerFast:
    """One token for each digit, and the mask."""
    words = [MASK, *DIGITS[:base]]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, MASK))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=MASK, eos_token=MASK, mask_token=MASK, unk_token=MASK,
        model_max_length=16, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def untrained(base: int = 5, width: int = 32, layers: int = 2, seed: int = 0) -> LM:
    """A random model of the digits below the base, with its tokenizer."""
    config = GPT2Config(
        vocab_size=base + 1, n_positions=16, n_embd=width, n_layer=layers, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=0,
        pad_token_id=0, initializer_range=SPREAD, dtype="float32",
    )  # fmt: skip
    config.is_causal, config.mask_token_id, config.output_shift = False, 0, 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=0)
    return LM(model.eval(), tokenizer(base), "untrained")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.modular_sum", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--base", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    lm = untrained(options.base, seed=options.seed)
    lm.model.save_pretrained(options.out)
    lm.tokenizer.save_pretrained(options.out)
    print(f"{sum(p.numel() for p in lm.model.parameters())} parameters in {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
