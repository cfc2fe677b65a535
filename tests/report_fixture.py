"""Run directories as a run writes them, with made-up numbers: `python report_fixture.py DIR`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np

ARMS = {  # final accuracy, speed, length, forgetting
    "opsd": (0.78, 5.0, 38.0, -0.02),
    "grpo": (0.70, 1.6, 55.0, -0.06),
    "sft": (0.60, 3.0, 47.0, -0.12),
    "rft": (0.66, 2.2, 44.0, -0.03),
}
START = 0.42
EVIL = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1">'


def write(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def call(kind: str, arms: list[str], seeds: list[int]) -> dict:
    found = [{"name": name, "arguments": {"n": 1 if name == "opsd" else 8}} for name in arms]
    for arm in found:
        matched = "the student_backward tokens of opsd with the same seed"
        arm["budget"] = matched if arm["name"] == "sft" else None
    chosen = {"method": found[0]} if kind == "train" else {"arms": found}
    return {
        "kind": kind,
        **chosen,
        "model": {"path": "autodidact/tiny", "parameters": 812_000},
        "task": {"name": "random_calculation", "arguments": {"operations": 3}},
        "run": {"lr": 1e-3, "rows": 32, "schedule": "cosine", "checkpoint": "last"},
        "budget": {"column": "generated", "amount": 120_000},
        "seeds": seeds,
        "versions": {"autodidact": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "git": "0123abc",
        "machine": {"cpu": "2 cores", "gpu": None},
        "started": "2026-11-20T09:00:00+00:00",
        "finished": "2026-11-20T09:04:10+00:00",
    }


def ledger(name: str, fraction: float, wobble: float) -> dict[str, float]:
    spent = 120_000 * fraction * wobble
    generated = 0 if name == "sft" else spent
    student = spent * (1.4 if name == "opsd" else 1.5)
    teacher = spent * 2.2 if name == "opsd" else 0
    return {
        "generated": round(generated),
        "prefilled": round(generated * 0.3),
        "teacher_forward": round(teacher),
        "student_forward": round(student),
        "student_backward": round(student),
        "optimizer_steps": round(60 * fraction),
        "verified": 0 if name == "opsd" else round(generated / 50),
        "seconds": 42 * fraction * wobble * (0.4 if name == "sft" else 1),
        "peak_bytes": 700 * 2**20 if fraction else 300 * 2**20,
        "total": round(generated * 1.3 + teacher + 2 * student),
    }


def evaluations(name: str, seed: int, problems: int, k: int, points: int) -> list[dict]:
    final, speed, length, lost = ARMS[name]
    hardness = np.random.default_rng(99).normal(0, 1.2, problems)
    generator = np.random.default_rng((seed, sum(map(ord, name))))
    luck = generator.normal(0, 0.03)
    rows = []
    for at in range(points):
        fraction = at / (points - 1)
        grown = (1 - math.exp(-speed * fraction)) / (1 - math.exp(-speed))
        mean = START + (final - START + luck) * grown
        if fraction == 0:  # the same base model, evaluated once, in every arm
            generator = np.random.default_rng(seed)
        right = 1 / (1 + np.exp(-(math.log(mean / (1 - mean)) * 1.3 - hardness)))
        sampled = (generator.random((problems, k)) < right[:, None]).astype(int)
        greedy = (generator.random(problems) < np.clip(right + 0.05, 0, 1)).astype(int)
        kept = (np.random.default_rng(11).random(80) < 0.9 + lost * grown).astype(int)
        majority = (sampled.mean(axis=1) > 0.45).astype(int)
        rows.append(
            {
                "kind": "eval",
                "step": round(60 * fraction),
                "fraction": fraction,
                "ledger": ledger(name, fraction, 1 + 0.01 * seed),
                "metrics": {
                    "greedy": float(greedy.mean()),
                    "sampled": float(sampled.mean()),
                    "majority": float(majority.mean()),
                    "length": 50 + (length - 50) * grown + generator.normal(0, 0.8),
                    "entropy": 0.45 * (1 - 0.5 * grown) + generator.normal(0, 0.008),
                    "truncated": max(0.0, 0.06 - 0.05 * grown),
                    "forgetting": float(kept.mean()),
                },
                "problems": {
                    "greedy": greedy.tolist(),
                    "sampled": sampled.tolist(),
                    "majority": majority.tolist(),
                    "forgetting": kept.tolist(),
                },
            }
        )
    return rows


def steps(name: str, seed: int, count: int) -> list[dict]:
    generator = np.random.default_rng((seed, 5))
    rows = []
    for step in range(1, count + 1):
        done = step / count
        rows.append(
            {
                "kind": "step",
                "step": step,
                "loss": 0.9 * math.exp(-2 * done) + generator.normal(0, 0.05),
                "reward": None if name == "sft" else 0.4 + 0.3 * done + generator.normal(0, 0.06),
                "accuracy": None,
                "length": 50 - 8 * done + generator.normal(0, 2),
                "truncated": max(0.0, 0.2 - 0.3 * done),
                "entropy": 0.45 - 0.2 * done,
                "grad_norm": abs(generator.normal(0.6, 0.2)),
                "lr": 1e-3,
                "mismatch_mean": 1e-4,
                "mismatch_max": 1e-3,
                "ess": 0.99,
                "signal": 0.4 - 0.2 * done,
                "ledger": ledger(name, done, 1.0),
            }
        )
    return rows


def tokens(
    name: str, problems: int, length: int | None = None, words: int = 5, seed: int = 1
) -> dict:
    """tokens.json: calculations in characters; a divergence for opsd and sft, else an advantage."""
    generator = np.random.default_rng(seed)
    dense = name in ("opsd", "sft")
    rows = []
    for problem in range(problems):
        a, b, c = (int(x) for x in np.random.default_rng((7, problem)).integers(2, 30, 3))
        wrong = (problem + len(name)) % 3 == 0
        product = b * c + (10 if wrong else 0)
        text = f"First {b}*{c}={product}.\nThen {a}+{product}={a + product}.\nAnswer: {a + product}"
        pieces = [*text, "<|end|>"]
        if length is not None:
            pieces = [pieces[at % len(pieces)] for at in range(length)]
        slip = text.index("=") + 1
        advantage = -0.9 if wrong else 0.6
        found = []
        for at, piece in enumerate(pieces):
            digit = piece.isdigit()
            size = generator.exponential(0.25 if digit else 0.015)
            if wrong and slip <= at < slip + 3:
                size += 2.4
            sure = math.exp(-size)
            others = generator.permutation([w for w in "0123456789+-*=. \n" if w != piece])
            mine = generator.dirichlet(np.full(words, 0.25 if digit else 0.08))
            mine = np.sort(mine)[::-1]
            theirs = np.sort(generator.dirichlet(np.full(words, 0.1)))[::-1]
            at_own = 0 if not digit else int(generator.integers(0, 2))
            student = [*others[: words - 1]]
            student.insert(at_own, piece)
            teacher = [*others[1:words]]
            teacher.insert(1 if size > 1 else 0, piece)
            found.append(
                {
                    "text": piece,
                    "signal": float(size) if dense else advantage,
                    "logp": float(np.log(max(mine[at_own], 1e-6))),
                    "teacher_logp": math.log(sure) if dense else None,
                    "student": [[w, float(p)] for w, p in zip(student, mine, strict=True)],
                    "teacher": [[w, float(p)] for w, p in zip(teacher, theirs, strict=True)]
                    if dense
                    else None,
                }
            )
        rows.append(
            {
                "question": f"{a}+{b}*{c}=?",
                "solution": f"{b}*{c}={b * c}\n{a}+{b * c}={a + b * c}",
                "answer": str(a + b * c),
                "completion": "".join(pieces),
                "correct": not wrong,
                "tokens": found,
            }
        )
    unit = "nats" if dense else "standard deviations"
    return {
        "signal": "divergence" if dense else "advantage",
        "unit": unit,
        "arm": name,
        "problems": rows,
    }


def samples(count: int) -> list[dict]:
    return [
        {
            "step": step,
            "question": f"{step}+2*{step}=?",
            "completion": EVIL if step % 7 == 0 else f"2*{step}={2 * step}\nAnswer: {3 * step}",
            "answer": str(3 * step),
            "correct": step % 7 != 0,
            "reward": float(step % 7 != 0),
        }
        for step in range(1, count + 1)
    ]


DIAGNOSIS = {
    "level": "warning",
    "what": "A quarter of the groups had no spread.",
    "why": "All completions of a group got the same reward, so its advantage is zero.",
    "remedy": "Sample more rows a group, or easier problems.",
    "step": 12,
}


def compare(
    folder: Path,
    arms: tuple[str, ...] = tuple(ARMS),
    seeds: tuple[int, ...] = (0, 1, 2),
    problems: int = 100,
    k: int = 8,
    points: int = 9,
) -> Path:
    write(folder / "run.json", call("compare", list(arms), list(seeds)))
    for name in arms:
        for seed in seeds:
            place = folder / "arms" / name / f"seed-{seed}"
            rows = steps(name, seed, 60) + evaluations(name, seed, problems, k, points)
            write_lines(place / "metrics.jsonl", rows)
            write_lines(place / "samples.jsonl", samples(8))
            write(place / "tokens.json", tokens(name, 4))
    if "grpo" in arms:
        write(folder / "arms" / "grpo" / f"seed-{seeds[0]}" / "diagnoses.json", [DIAGNOSIS])
    return folder


def train(folder: Path, problems: int = 3, length: int | None = None, count: int = 60) -> Path:
    write(folder / "run.json", call("train", ["opsd"], [0]))
    rows = steps("opsd", 0, count) + evaluations("opsd", 0, 50, 4, 5)
    write_lines(folder / "metrics.jsonl", rows)
    write_lines(folder / "samples.jsonl", samples(20))
    write(folder / "tokens.json", tokens("opsd", problems, length))
    write(folder / "diagnoses.json", [{**DIAGNOSIS, "level": "error", "step": None}])
    return folder


if __name__ == "__main__":
    compare(Path(sys.argv[1]) / "compare")
    train(Path(sys.argv[1]) / "train", count=800)
