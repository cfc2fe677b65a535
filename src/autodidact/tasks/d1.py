r"""GSM8K and MATH as d1 publishes them: prompts, rewards, and how its evaluation reads an answer.

Source: d1: Scaling Reasoning in Diffusion Large Language Models via Reinforcement Learning,
arXiv 2504.12216, rewards and prompts as in its code and in that of SPG (arXiv 2510.09541), which
builds on it. Its Countdown and Sudoku are the tasks of those names. Completions are 256 tokens
long in training and 128, 256 or 512 in evaluation (`LENGTHS`). In training it cuts prompts to
their last 200 tokens, silently; here nothing is cut.

Rewards were read in d1's code, prompts in SPG's. From memory: that d1's own are the same to the
letter, and that its evaluation asks MATH as it asks GSM8K.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from autodidact.names import choose
from autodidact.problem import Message, Problem, Task
from autodidact.tasks import hendrycks, rows
from autodidact.tasks.d1_rewards import gsm8k_number, gsm8k_reward, math_answer, math_reward
from autodidact.tasks.tagged import FRAME
from autodidact.tasks.values import as_text

Wording = Literal["training", "evaluation"]
"""Which of its two prompts; the one of evaluation asks for a box within the tags."""

LENGTHS = (128, 256, 512)
OPENING = "<reasoning>"
"""What its evaluation writes at the beginning of each completion, after the chat template."""
EXPERT = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the "
    "final answer in a \\boxed{}. "
)
BOXED = (
    "Respond in the following format:\n<reasoning>\nYour reasoning here\n</reasoning>\n<answer>\n"
    "\\boxed{...}\n</answer>"
)
REFERENCE = (
    "{asked}\n\nHere is a reference solution:\n{solution}\n\nNow solve the problem yourself."
)
"""What a privileged teacher reads."""


def d1_gsm8k(
    path: str = "openai/gsm8k",
    config: str | None = None,
    wording: Wording = "training",
    multiline: bool = False,
    train: int | None = None,
    test: int | None = None,
) -> Task:
    """GSM8K with d1's prompts and its reward, of up to 3.5 or 4 (`gsm8k_reward`).

    `correct` is its evaluation: `gsm8k_number` equals the number after `####`.

    Args:
        path: a hub name, or a folder with `train.jsonl` and `test.jsonl`; `question`, `answer`.
        config: of a hub data set; `main` for GSM8K itself.
        wording: see `Wording`.
        multiline: see `gsm8k_reward`.
        train, test: at most so many problems of each split.

    Returns:
        A `Task`; without a held-out split in `path` its test problems are none.

    Raises:
        ValueError: data that cannot be read, with file and line, or a wording that is none.
    """
    config = "main" if path == "openai/gsm8k" else config
    asking = "\n" + FRAME + "\n" if wording == "training" else f"{EXPERT}\n{BOXED}"

    def correct(problem: Problem, completion: str) -> bool:
        found, truth = gsm8k_number(completion), _truth(problem)
        return found is not None and found == float(truth.replace(",", ""))

    def final(completion: str) -> str | None:
        found = gsm8k_number(completion)
        return None if found is None else f"{found:g}"

    def graded(problems: Sequence[Problem], completions: Sequence[str]) -> list[float | None]:
        pairs = zip(problems, completions, strict=True)
        return [gsm8k_reward(text, _truth(problem), multiline) for problem, text in pairs]

    splits = _splits(path, config, ("question", "answer"), train, test)
    return _task("d1_gsm8k", splits, wording, asking, correct, graded, final)


def d1_math(
    path: str = "ankner/math-500",
    wording: Wording = "training",
    train: int | None = None,
    test: int | None = None,
) -> Task:
    """MATH with d1's prompts and its reward, of up to 2.75 (`math_reward`).

    `correct` is its evaluation: what is in the last box, or else in the first answer tag, is the
    truth by `hendrycks.same`.

    Args:
        path: a hub name, or a folder; rows of `problem` and `solution`, which ends in a box.
        wording: see `Wording`.
        train, test: at most so many problems of each split.

    Raises:
        ValueError: as `d1_gsm8k`.
    """
    training = wording == "training"
    asking = f"\n{FRAME}\n\n\n{EXPERT}" if training else f"{EXPERT}\n{BOXED}"

    def correct(problem: Problem, completion: str) -> bool:
        found = math_answer(completion)
        return found is not None and hendrycks.same(found, _truth(problem))

    def graded(problems: Sequence[Problem], completions: Sequence[str]) -> list[float | None]:
        pairs = zip(problems, completions, strict=True)
        return [math_reward(text, _truth(problem)) for problem, text in pairs]

    splits = _splits(path, None, ("problem", "solution"), train, test)
    return _task("d1_math", splits, wording, asking, correct, graded, math_answer)


def _truth(problem: Problem) -> str:
    if problem.answer is None:
        raise ValueError(f"no answer to compare with: {problem.place}")
    return problem.answer


def _splits(
    path: str, config: str | None, columns: tuple[str, str], train: int | None, test: int | None
) -> tuple[list[Problem], list[Problem]]:
    """The problems to train on and those held out, as many as are wanted."""
    found, held_out = rows.sources(path, "train", config)
    return (
        [_problem(row, columns) for row in found[:train]],
        [_problem(row, columns) for row in (held_out or [])[:test]],
    )


def _problem(row: rows.Row, columns: tuple[str, str]) -> Problem:
    if row.fault:
        raise ValueError(f"{row.at}: {row.fault}")
    question, worked = (as_text(row.values, name) for name in columns)
    if not question or not worked:
        raise ValueError(
            f"{row.at}: columns {', '.join(row.values)}; needed: {' and '.join(columns)}, with text"
        )
    reasoning, marked, answer = worked.rpartition("####")
    stated = answer.strip() if marked else hendrycks.boxed(worked)
    if not stated:
        raise ValueError(f"{row.at}: no answer after ####, or in a \\boxed{{}} that is closed")
    said = (reasoning.strip(), stated) if marked else (worked, f"\\boxed{{{stated}}}")
    solution = "<reasoning>\n{}\n</reasoning>\n<answer>\n{}\n</answer>\n".format(*said)
    return Problem(question, solution, stated, {"_at": row.at})


def _task(name, splits, wording, asking, correct, graded, final) -> Task:
    choose("wording", wording, get_args(Wording))

    def asked(problem: Problem) -> str:
        return f"{asking}\n\n{problem.question}"

    def privileged(problem: Problem) -> list[Message]:
        if problem.solution is None:
            raise ValueError(f"no solution to show for {problem.place}")
        text = REFERENCE.format(asked=asked(problem), solution=problem.solution)
        return [{"role": "user", "content": text}]

    return Task(
        name,
        train=splits[0],
        test=splits[1],
        prompt=lambda problem: [{"role": "user", "content": asked(problem)}],
        privileged=privileged,
        correct=correct,
        reward=graded,
        final=final,
    )
