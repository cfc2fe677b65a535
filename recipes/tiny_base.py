"""Trains the shipped tiny model from nothing: `python recipes/tiny_base.py --out DIR`.

A Qwen3 of under a million parameters that reads bytes. It learns, in one thread and some ten
minutes, four kinds of rows:

- calculation: an expression of `tiny_calculation`, worked out with wrong steps at the rates of
  `SLIPS`. A wrong step changes an intermediate result, and later steps follow from it.
- reread: the same, read after its reference solution. The model never learns a wrong step here,
  so that it can use privileged information. Some of these rows hold wrong steps all the same,
  without a label on the token that goes wrong: what to say after a slip is learned, too.
  A tenth of all work takes another correct form than the reference, so that copying is not the
  only skill.
- reverse: short words backwards, always right: a second skill, to measure forgetting by.
- reread reverse: the same, read after its solution.

No problem of `tiny_calculation()` or `reverse_text()`, neither train nor test, is among them.
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from autodidact.problem import Message, Problem, Task
from autodidact.tasks.arithmetic import Node, apply, parse, reduce
from autodidact.tasks.random_calculation import tiny_calculation
from autodidact.tasks.reverse_text import reverse_text
from autodidact.tasks.worked import equation

SLIPS = {"precedence": 0.4, "carry": 0.5, "table": 0.3, "sign": 0.25, "digit": 0.06}
"""Chance of each wrong step where it can happen (`slip`, `hasty`)."""
OTHER_FORM = 0.1
"""Share of work whose sums and products are written with operands exchanged."""


@dataclass(frozen=True)
class Stage:
    """A stretch of training on one mixture of rows.

    Attributes:
        steps, lr: updates, and the rate at the top of the cosine.
        reread: share of rows that are read after their solution.
        unlabelled: share of reread calculations that hold wrong steps, without a label where
            they go wrong.
    """

    steps: int
    lr: float
    reread: float
    unlabelled: float


STAGES = (
    Stage(2400, 3e-3, reread=0.5, unlabelled=0.25),
    Stage(400, 1e-3, reread=0.75, unlabelled=0.05),
)
"""First everything, then mostly reading: copying is what a small model learns last."""
REVERSE = 0.15
"""Share of rows that are words to reverse."""
SIZE, PIECES = 128, 4
"""Rows of a step, and the pieces they are cut into by length, to save padding."""
SPECIAL = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that any text survives; five special tokens; a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=TEMPLATE,
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def network(words: PreTrainedTokenizerFast, width: int = 96, layers: int = 3) -> Qwen3ForCausalLM:
    """An untrained Qwen3 for these words."""
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id
    )
    return model


def hasty(node: Node) -> Node:
    """The tree of someone who is about to take the next sum before the product behind it."""
    operator, left, right = node
    if not isinstance(left, Fraction):
        return operator, hasty(left), right
    if isinstance(right, Fraction):
        return node
    if operator in "+-" and right[0] == "*" and isinstance(right[1], Fraction):
        return "*", (operator, left, right[1]), right[2]
    return operator, left, hasty(right)


def slip(operator: str, a: Fraction, b: Fraction, rng: random.Random) -> Fraction:
    """The result of an operation, wrong at the rates of `SLIPS`."""
    exact = apply(operator, a, b)
    if operator == "*":
        if rng.random() < SLIPS["table"]:  # the neighbour in the table
            return exact + rng.choice([-1, 1]) * (a if abs(a) >= abs(b) else b)
    else:
        first, second = (a, b) if operator == "+" else (exact, b)
        carries = min(first, second) >= 0 and first % 10 + second % 10 >= 10
        if carries and rng.random() < SLIPS["carry"]:  # forgotten, or not borrowed
            return exact - 10 if operator == "+" else exact + 10
        if operator == "-" and exact < 0 <= min(a, b) and rng.random() < SLIPS["sign"]:
            return -exact
    if rng.random() < SLIPS["digit"]:
        return exact + rng.choice([-2, -1, 1, 2])
    return exact


def exchanged(node: Node) -> Node:
    """The same value in another form: operands of sums and products exchanged."""
    if isinstance(node, Fraction):
        return node
    operator, left, right = node[0], exchanged(node[1]), exchanged(node[2])
    return (operator, right, left) if operator in "+*" else (operator, left, right)


def attempt(problem: Problem, rng: random.Random, slips: bool) -> tuple[str, list[int]]:
    """A worked calculation in one form or another, and where it goes wrong.

    Returns:
        The text, and the index of the first wrong character of each wrong step (the length of
        the text, where it should not have ended).
    """
    node = parse(problem.question)
    if rng.random() < OTHER_FORM:
        node = exchanged(node)
    text, wrong = "", []
    while not isinstance(node, Fraction):
        right = next(reduce(node))
        if slips and rng.random() < SLIPS["precedence"]:
            node = hasty(node)
        meant = next(reduce(node))
        given = next(reduce(node, lambda *step: slip(*step, rng))) if slips else meant
        node = given[-1]
        lines = [equation(*step[:4]) + "\n" for step in (right, meant, given)]
        for true, taken in pairwise(lines):
            if true != taken:
                wrong.append(
                    len(text) + [a == b for a, b in zip(true, taken, strict=False)].index(False)
                )
        text += lines[-1]
    return text[:-1], wrong


Row = tuple[list[Message], str, list[int]]
"""What is read, what is to be written, and the characters of it that carry no label."""


def rows(stage: Stage, seed: int, amount: int = 60_000) -> Iterator[Row]:
    """Endless rows of the four kinds, in the shares of a stage."""
    rng = random.Random(seed)
    known = {p.question for t in (tiny_calculation(), reverse_text()) for p in (*t.train, *t.test)}
    calculation, reverse = (
        task(train=amount, test=0, seed=seed + 1) for task in (tiny_calculation, reverse_text)
    )
    expressions, words = (
        [problem for problem in task.train if problem.question not in known]
        for task in (calculation, reverse)
    )
    while True:
        again = rng.random() < stage.reread
        if rng.random() < REVERSE:
            problem, task = rng.choice(words), reverse
            text, wrong = problem.answer, []
        else:
            problem, task = rng.choice(expressions), calculation
            slips = not again or rng.random() < stage.unlabelled
            text, wrong = attempt(problem, rng, slips)
        if again:
            yield task.privileged(problem), text, wrong
        else:
            yield task.prompt(problem), text, []


def tensors(batch: list[Row], words: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Rows, padded on the right; prompts, wrong characters and padding have no label. All [B,T]."""
    texts = words.apply_chat_template(
        [messages for messages, *_ in batch], tokenize=False, add_generation_prompt=True
    )
    ids, labels = [], []
    for prompt, (_, text, wrong) in zip(words(texts)["input_ids"], batch, strict=True):
        target = torch.tensor(words(text + words.eos_token)["input_ids"])
        ids.append(torch.cat([torch.tensor(prompt), target]))
        target[wrong] = -100
        labels.append(torch.cat([torch.full([len(prompt)], -100), target]))
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True, padding_value=words.pad_token_id),
        "labels": pad(labels, batch_first=True, padding_value=-100),
    }


def train(
    model: Qwen3ForCausalLM,
    words: PreTrainedTokenizerFast,
    stage: Stage,
    seed: int,
) -> None:
    """AdamW, warm-up and cosine. Right padding needs no attention mask under causal attention."""
    source, steps = rows(stage, seed), stage.steps
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda i: min((i + 1) / 100, 0.5 * (1 + math.cos(math.pi * i / steps)) + 0.01),
    )
    model.train()
    started, seen = time.process_time(), []
    for step in range(1, steps + 1):
        batch = sorted(islice(source, SIZE), key=lambda row: len(row[0][0]["content"] + row[1]))
        piece = SIZE // PIECES
        data = [tensors(batch[i : i + piece], words) for i in range(0, SIZE, piece)]
        asked = sum((tensor["labels"] != -100).sum() for tensor in data)
        for tensor in data:
            loss = model(**tensor, num_items_in_batch=asked).loss
            loss.backward()
            seen.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps:
            mean = sum(seen) * PIECES / len(seen)
            print(
                f"step {step:5d}  loss {mean:.4f}  {time.process_time() - started:.0f} s",
                flush=True,
            )
            seen.clear()


@torch.inference_mode()
def write(
    model: Qwen3ForCausalLM,
    words: PreTrainedTokenizerFast,
    prompts: list[list[Message]],
    sample: bool,
    length: int = 48,
) -> list[str]:
    """One completion for each prompt, sampled at temperature 1 or greedy."""
    model.eval()
    texts = words.apply_chat_template(prompts, tokenize=False, add_generation_prompt=True)
    inputs = words(texts, return_tensors="pt", padding=True)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=length,
        **options,
    )
    written = output[:, inputs["input_ids"].shape[1] :]
    return words.batch_decode(written, skip_special_tokens=True)


def accuracy(
    model: Qwen3ForCausalLM,
    words: PreTrainedTokenizerFast,
    task: Task,
    privileged: bool = False,
    sample: bool = True,
    repeat: int = 1,
) -> float:
    """Share of right completions on the task's test problems, each asked `repeat` times."""
    problems = list(task.test) * repeat
    prompts = [(task.privileged if privileged else task.prompt)(p) for p in problems]
    texts = write(model, words, prompts, sample)
    return sum(map(task.correct, problems, texts)) / len(problems)


def measure(model: Qwen3ForCausalLM, words: PreTrainedTokenizerFast, seed: int) -> dict[str, float]:
    """Accuracies on held-out problems, sampled at temperature 1 (4 times each) and greedy."""
    torch.manual_seed(seed)
    results = {}
    for task in (tiny_calculation(), reverse_text()):
        for privileged in (False, True):
            name = task.name + (", read after its solution" if privileged else "")
            results[f"{name}, sampled"] = accuracy(model, words, task, privileged, True, 4)
            results[f"{name}, greedy"] = accuracy(model, words, task, privileged, False)
    return results


def right_by_design(seed: int, count: int = 2000) -> float:
    """Share of the worked calculations in the training data that end right."""
    rng, task = random.Random(seed), tiny_calculation()
    drawn = rng.choices(task.train, k=count)
    return sum(task.correct(problem, attempt(problem, rng, True)[0]) for problem in drawn) / count


def card(results: dict[str, float], options: argparse.Namespace, parameters: int) -> str:
    """The model card, with what was measured."""
    table = "\n".join(f"| {name} | {value:.3f} |" for name, value in results.items())
    slips = ", ".join(f"{name} {rate}" for name, rate in SLIPS.items())
    return CARD.format(
        parameters=parameters,
        table=table,
        slips=slips,
        right=right_by_design(options.seed),
        seconds=options.seconds,
        other=OTHER_FORM,
        first=STAGES[0],
        second=STAGES[1],
        reverse=REVERSE,
        seed=options.seed,
        rows=sum(stage.steps for stage in STAGES) * SIZE,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        tokenizers=tokenizers.__version__,
    )


CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# A tiny model with something left to learn

A Qwen3 of {parameters:,} parameters (3 layers, width 96, tied embeddings, float32, 4096 positions)
that reads bytes. It is made for trying training methods on a processor in seconds, and for
nothing else: it works out expressions such as `7+8*3` badly, although it can do better.

## What it does

| held-out problems | accuracy |
|---|---|
{table}

Sampled at temperature 1 without truncation, 4 completions a problem; 500 problems of
`tiny_calculation()`, 200 of `reverse_text()`. A completion is at most 40 tokens.

    <|user|>7+8*3<|assistant|>8*3=24
    7+24=31<|end|>

The end token is `<|end|>`, padding is `<|pad|>`, there is no token of beginning. The privileged
prompt puts `solution:` and the solution, each on a line of its own, after the question.

## What it was trained on

{rows:,} rows, all made by `recipes/tiny_base.py`, no text from anywhere else. Labels are on what
the assistant writes. No problem of `tiny_calculation()` or `reverse_text()` (seed 0, train or
test) is among them.

- Calculations of 1 to 3 of `+-*` on integers to 20, worked out step by step **with wrong steps**,
  at these chances wherever they can happen: {slips}. *Precedence*: the next sum
  is taken before the product behind it. *Carry*: a ten is not carried or not borrowed. *Table*: a
  product is off by one factor. *Sign*: a minus is lost. *Digit*: off by 1 or 2. Later steps follow
  from the wrong result. {right:.0%} of these calculations end right.
- The same after their reference solution, {first.reread:.0%} of all rows in the first stage and
  {second.reread:.0%} in the second. The model never learns a wrong step here.
  {first.unlabelled:.0%} ({second.unlabelled:.0%}) of these rows hold wrong steps all the same,
  without a label on the token that goes wrong: so it learns what to say after someone's slip.
- {other:.0%} of all work exchanges the operands of sums and products, a correct form other than the
  reference's.
- {reverse:.0%} of all rows, plain and reread, reverse a word of 3 to 5 letters (`reverse:kdob`,
  `bodk`), always right: a second skill, to measure forgetting by.

## How to make it again

    python recipes/tiny_base.py --out DIR --seed {seed}

One thread, {seconds:.0f} s of processor time where it was made; {first.steps} steps of 128 rows
at a rate of {first.lr}, then {second.steps} at {second.lr}; AdamW, each stage with a cosine
schedule. Python {python}, torch {torch}, transformers {transformers},
tokenizers {tokenizers}. Other versions and processors give slightly other weights.

## Limits

It knows nothing but the above. Large products are beyond it. Licence: Apache-2.0.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    words = tokenizer()
    model = network(words)
    print(f"{model.num_parameters():,} parameters")
    started = time.process_time()
    for place, stage in enumerate(STAGES):
        train(model, words, stage, options.seed + place)
    options.seconds = time.process_time() - started
    results = measure(model, words, options.seed)
    for name, share in results.items():
        print(f"{share:.3f}  {name}")
    model.save_pretrained(options.out)
    words.save_pretrained(options.out)
    (options.out / "README.md").write_text(card(results, options, model.num_parameters()))


if __name__ == "__main__":
    main()
