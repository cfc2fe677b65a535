"""The table of d1 (2504.12216) for a masked model: `python -m recipes.d1_evaluation --model M`.

GSM8K, MATH500, Countdown and Sudoku at 128, 256 and 512 tokens, half as many steps, blocks of 32,
greedy, no examples in the prompt, and `<reasoning>` written at the beginning of each completion.
Answers are read as its code does, and only up to the token that ends the text, where its code
reads on. Its own Sudoku puzzles share grids with its training, and some have several solutions of
which one counts: `sudoku_clean` has neither flaw. No real checkpoint has been measured with this
recipe; what it prints beside is what the published outputs of LLaDA-8B-Instruct come to.

accuracy    per cent of right answers; of Sudoku the share of empty cells that are as in the key
95%         its interval, over problems
exact       of Sudoku: per cent of valid grids
tokens      mean of a completion; readings: canvases that were read for one
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autodidact.engine import Request
from autodidact.engines.denoise import Denoise
from autodidact.law import Law
from autodidact.model import load
from autodidact.models import Models
from autodidact.names import choose
from autodidact.problem import Message, Problem, Task
from autodidact.rollouts.sample import answer
from autodidact.statistics import Interval, estimate, resample
from autodidact.tasks import expressions, grids, hendrycks, sudoku
from autodidact.tasks.countdown import countdown
from autodidact.tasks.d1 import LENGTHS, OPENING, d1_gsm8k, d1_math

BASE = {
    "gsm8k": (68.7, 76.7, 78.2),
    "math500": (26.0, 32.4, 36.2),
    "countdown": (20.7, 19.5, 16.0),
    "sudoku": (11.7, 6.7, 5.5),
}
"""LLaDA-8B-Instruct at the three lengths, from the outputs that d1's code comes with."""
MAKE = (
    "Using only the provided numbers, create an arithmetic expression that evaluates to exactly "
    "the provided target number. You may use the operations +, -, *, and / as needed, but each "
    "number must be used exactly once. Think step-by-step. After reasoning, provide only your "
    "final expression inside \\boxed{} tags without including an equals sign or the target number. "
    "For example: \\boxed{a + b * c}Respond in the following format:\n<reasoning>\nYour reasoning "
    "here\n</reasoning>\n<answer>\n\\boxed{...}\n</answer>"
)
GRIDS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<answer>.*?```\s*([\d\s]+)```",
        r"<answer>(.*?)(?:<\|eot_id\|>|<\|endoftext\|>|</answer>)",
        r"</answer>\s*(.*?)(?:<\|eot_id\|>|<\|endoftext\|>|$)",
        r".*?(\d{16})\s*</answer>",
        r"\b(\d{16})\b",
    )
)
"""Where a grid may stand; the first that holds anything is read."""


@dataclass(frozen=True)
class Part:
    """A task of the table, and what a completion is worth: the accuracy first, from 0 to 1."""

    task: Task
    read: Callable[[Problem, str], dict[str, float]]


def expression(completion: str) -> str:
    """The expression of a Countdown answer: in the last box, the first tag, or all of it."""
    found = hendrycks.boxed(completion)
    if found is None:
        tag = re.search(r"<answer>(.*?)</answer>", completion, re.DOTALL)
        found = tag[1].strip() if tag else completion
    for name, sign in (("\\div", "/"), ("\\times", "*"), ("\\cdot", "*")):
        found = found.replace(name, sign)
    equation = re.search(r"([0-9+\-*/() ]+)=[0-9. ]+", found)
    return equation[1].strip() if equation else found


def grid(completion: str) -> str:
    """The grid of a Sudoku answer, filled up with 0 or cut to 16 characters; empty without one."""
    for pattern in GRIDS:
        found = pattern.search(completion)
        if found and found[1].strip():
            return re.sub(r"\s", "", found[1]).ljust(16, "0")[:16]
    return ""


def read_countdown(problem: Problem, completion: str) -> dict[str, float]:
    numbers, target = problem.meta["numbers"], problem.meta["target"]
    return {"accuracy": float(expressions.solves(expression(completion), numbers, target))}


def read_sudoku(problem: Problem, completion: str) -> dict[str, float]:
    puzzle, found, key = sudoku.asked(problem), grid(completion), problem.answer or ""
    empty = [i for i, cell in enumerate(puzzle) if cell == "0"]
    cells = sum(found[i] == key[i] for i in empty) / len(empty) if found else 0.0
    whole = re.fullmatch("[1-4]{16}", found) is not None and grids.valid(found, puzzle)
    return {"accuracy": cells, "exact": float(whole)}


def parts(data: Path, names: Sequence[str], problems: int | None = None) -> dict[str, Part]:
    """The tasks of these names, from a folder with one for each of them.

    Raises:
        ValueError: an unknown name, or data that cannot be read.
    """
    made = {
        "gsm8k": lambda: _plain(d1_gsm8k(_at(data, "gsm8k"), wording="evaluation", test=problems)),
        "math500": lambda: _plain(d1_math(_at(data, "math500"), "evaluation", test=problems)),
        "countdown": lambda: Part(_countdown(data / "countdown" / "test.jsonl"), read_countdown),
        "sudoku": lambda: Part(_sudoku(data / "sudoku" / "test.csv"), read_sudoku),
        "sudoku_clean": lambda: Part(_sudoku(None), read_sudoku),
    }
    return {name: made[choose("task", name, made)]() for name in names}


def _at(data: Path, name: str) -> str:
    hub = {"gsm8k": "openai/gsm8k", "math500": "ankner/math-500"}[name]
    return str(data / name) if (data / name).is_dir() else hub


def _plain(task: Task) -> Part:
    correct = task.correct
    assert correct is not None
    return Part(task, lambda problem, text: {"accuracy": float(correct(problem, text))})


def _countdown(path: Path) -> Task:
    def prompt(problem: Problem) -> list[Message]:
        asked = f"Numbers: {problem.meta['numbers']}\nTarget: {problem.meta['target']}"
        return [{"role": "user", "content": f"{MAKE}\n\n{asked}"}]

    return replace(countdown(path=path, train=0, test=256), prompt=prompt)


def _sudoku(path: Path | None) -> Task:
    return sudoku.sudoku(path=path, train=0, test=256)


@dataclass(frozen=True)
class Line:
    """One line of the table: a task at a length."""

    name: str
    length: int
    problems: int
    scores: dict[str, Interval]
    tokens: float
    readings: float

    def __str__(self) -> str:
        value, low, high = (100 * each for each in self.scores["accuracy"])
        exact = f"{100 * self.scores['exact'].value:.1f}" if "exact" in self.scores else ""
        known = self.name in BASE and self.length in LENGTHS
        base = f"{BASE[self.name][LENGTHS.index(self.length)]:.1f}" if known else ""
        return (
            f"{self.name:<13}{self.length:>6}{self.problems:>6}{value:>9.1f}"
            f"{f'[{low:.1f}, {high:.1f}]':>16}{exact:>7}{base:>8}"
            f"{self.tokens:>8.0f}{self.readings:>9.0f}"
        )


HEAD = f"{'task':<13}{'length':>6}{'n':>6}{'accuracy':>9}{'95%':>16}{'exact':>7}{'LLaDA':>8}" + (
    f"{'tokens':>8}{'readings':>9}"
)


def measure(
    models: Models, name: str, part: Part, length: int, problems: int | None, block: int = 32
) -> Line:
    """Greedy answers to the test problems of a task, and what they are worth."""
    lm, asked = models.policy, part.task.test[:problems]
    begun = tuple(lm.tokenizer(OPENING, add_special_tokens=False)["input_ids"])
    wanted = [Request(tuple(lm.render(part.task.prompt(p))), 0, length, begun) for p in asked]
    before = models.ledger.calls
    engine = Denoise(max(1, length // 2), min(block, length))
    found = answer(models, wanted, Law(0.0), 0, engine)
    texts = [lm.text(each.ids) for each in found]
    worth = [part.read(problem, text) for problem, text in zip(asked, texts, strict=True)]
    draws = resample(1, len(asked), np.random.default_rng(0))
    scores = {key: estimate([[each[key] for each in worth]], draws) for key in worth[0]}
    ends = [next((i for i, w in enumerate(e.ids) if w in lm.ends), len(e.ids)) for e in found]
    calls = (models.ledger.calls - before) / len(asked)
    return Line(name, length, len(asked), scores, sum(ends) / len(asked), calls)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.d1_evaluation", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--model", required=True, help="hub name or folder of a masked model")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the test files")
    parser.add_argument("--tasks", nargs="+", default=list(BASE))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--problems", type=int, help="at most so many of each task")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args(arguments)
    wanted = parts(options.data, options.tasks, options.problems)
    models = Models(load(options.model, precision=options.precision))
    print(HEAD)
    for name, part in wanted.items():
        for length in options.lengths:
            print(measure(models, name, part, length, options.problems), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
