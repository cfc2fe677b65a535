"""Our grading of real model outputs against their published labels.

The outputs are of the four models of OpenAI's grade-school-math release (6B and 175B, fine-tuning
and verification), each labelled `is_correct`. A disagreement has to be explained in `EXPLAINED`
after reading the completion, or the test fails; an explanation that explains nothing fails too.

The completions of the two verification models all end in `A: integer`. Those of the fine-tuned
models also end in decimals, in numbers with thousands commas (one of them right: `A: 3,000` for `3000`;
and once the reference has a comma: `A: 5,600`), in `A: -1.8 billion`, or are cut off before an answer; the label of the latter is "wrong",
and the last number of the text, which we fall back to, is wrong in each of them as well.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from autodidact.problem import Problem
from autodidact.tasks.answers import final, stated
from autodidact.tasks.verifiers import numeric

FILE = Path(__file__).parents[1] / "../shared/data/gsm8k/model_solutions.jsonl"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")

EXPLAINED: dict[tuple[int, str], str] = {}
"""`(line, model) -> why our grade differs from the label`. Empty: there is no disagreement."""


@pytest.fixture(scope="module")
def rows():
    if not FILE.is_file():
        pytest.skip(f"no data at {FILE}")
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def reference(row: dict) -> str:
    return row["ground_truth"].rpartition("\nA: ")[2]


def test_every_disagreement_with_the_labels_is_explained(rows):
    counts, disagreements = Counter(), {}
    for line, row in enumerate(rows, 1):
        problem = Problem(row["question"], answer=reference(row))
        for model in MODELS:
            label, completion = row[model]["is_correct"], row[model]["solution"]
            ours = numeric(problem, completion)
            counts[model, label, ours] += 1
            if ours != label:
                disagreements[line, model] = (
                    f"label {label}, ours {ours}: {final(completion)!r} for {problem.answer!r}"
                )
    print("\nmodel              both right  both wrong  only label  only ours  agreement")
    for model in MODELS:
        cells = [counts[model, *pair] for pair in ((1, 1), (0, 0), (1, 0), (0, 1))]
        share = (cells[0] + cells[1]) / sum(cells)
        print(f"{model:18} {cells[0]:10} {cells[1]:11} {cells[2]:11} {cells[3]:10} {share:10.4f}")
    for place, text in disagreements.items():
        print(place, text, "|", EXPLAINED.get(place, "NOT EXPLAINED"))
    assert disagreements.keys() == EXPLAINED.keys()
    assert sum(counts.values()) == 4 * 600
    right = {model: counts[model, True, True] + counts[model, True, False] for model in MODELS}
    assert right == {
        "6b_finetuning": 129,
        "6b_verification": 239,
        "175b_finetuning": 205,
        "175b_verification": 333,
    }


def test_the_comparison_can_fail(rows):
    """Neighbouring answers are wrong, and comparing bare text is not enough."""
    problem = Problem(rows[0]["question"], answer=reference(rows[0]))
    graded = {n: numeric(problem, f"A: {n}") for n in ("18", "18.0", "17", "180", "1.8", "-18")}
    assert [n for n, right in graded.items() if right] == ["18", "18.0"]
    outputs = [(line, model, row) for line, row in enumerate(rows, 1) for model in MODELS]
    by_text = [
        (line, model)
        for line, model, row in outputs
        if row[model]["is_correct"] != row[model]["solution"].endswith(f"A: {reference(row)}")
    ]
    assert by_text == [(250, "6b_verification"), (420, "175b_finetuning")]  # 5,600 and 3,000
    unstated = [row[model] for _, model, row in outputs if stated(row[model]["solution"]) is None]
    assert len(unstated) == 6
    assert not any(output["is_correct"] for output in unstated)
