"""Runs inside the environment of vLLM: one engine, everything it is asked for, as JSON.

python vllm_worker.py MODEL OTHER REPORT
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace

import torch

from autodidact.batch import batch_of
from autodidact.engine import Request
from autodidact.engines.local import Local
from autodidact.engines.rescore import rescored
from autodidact.engines.vllm import Vllm
from autodidact.law import Law
from autodidact.model import load
from autodidact.models import Models
from autodidact.view import plain
from toys import perturb, toy_task

PROMPTS = [tuple(range(7, 7 + 5 * n)) for n in (1, 4, 9)]
ASKED = [Request(prompt, number, 24) for prompt in PROMPTS for number in range(8)]
LAWS = [
    Law(), Law(0.7), Law(0.0), Law(top_k=5), Law(1.3, top_p=0.8), Law(0.8, top_k=9, top_p=0.7),
    Law(min_p=0.2),
]  # fmt: skip
DRAWS = 2000
SHARED = tuple(range(7, 197))
"""Longer than the blocks of 128 tokens in which vLLM keeps what it has read on a CPU."""


def gap(lm, requests, drawn, law) -> dict:
    """How far vLLM's numbers are from the policy's at most, and whether all was drawn as asked."""
    found = drawn.completions
    judged = rescored(lm, requests, [each.ids for each in found], law)

    def most(ours, theirs):
        return max(abs(x - y) for a, b in zip(ours, theirs, strict=True) for x, y in zip(a, b, strict=True))  # fmt: skip

    return {
        "law": str(law),
        "logp": most([j.logp for j in judged], [c.logp for c in found]),
        "raw": most([j.raw for j in judged], [c.raw for c in found]),
        "support": all((c.support is not None) == law.truncates for c in found),
        "ended": [c.finished for c in found],
        "right": all(
            c.finished == (c.ids[-1] in lm.ends)
            and not set(c.ids[:-1]) & lm.ends
            and (c.finished or len(c.ids) == r.length)
            for r, c in zip(requests, found, strict=True)
        ),
        "ids": [c.ids for c in found],
        "read": drawn.read,
        "verified": drawn.verified,
    }


def frequencies(engine, lm, law) -> dict:
    """How often each first token was drawn, and how often it should be."""
    asked = [Request(PROMPTS[0], number, 1) for number in range(DRAWS)]
    counts = Counter(each.ids[0] for each in engine.draw(lm, asked, law, 1).completions)
    with torch.no_grad():
        logits = lm.model(torch.tensor([PROMPTS[0]])).logits[0, -1:]
    expected = law.log_probs(logits)[1][0].exp() * DRAWS
    return {
        "counts": [counts[word] for word in range(len(expected))],
        "expected": expected.tolist(),
    }


def scored(engine, lm) -> float:
    """How far prompt log-probabilities are from those of the trainer at most."""
    rows = [list(prompt) for prompt in PROMPTS]
    task = toy_task(1)
    batch = batch_of(task.train * len(rows), [r[:1] for r in rows], [r[1:] for r in rows], task)
    with torch.no_grad():
        ours = Models(lm).score(plain(batch), batch).logp[batch.own].tolist()
    theirs = [value for row in engine.prompt_logps(lm, rows) for value in row]
    return max(abs(x - y) for x, y in zip(ours, theirs, strict=True))


def refusal(ask) -> str:
    try:
        ask()
    except ValueError as error:
        return str(error)
    return ""


def follow(engine, lm) -> dict:
    """Draws before and after the weights have changed, without a word to the engine."""
    before = engine.draw(lm, ASKED, Law(0.0), 0).completions
    perturb(lm, 0.2)
    after = gap(lm, ASKED, engine.draw(lm, ASKED, Law(0.0), 0), Law(0.0))
    local = Local().draw(lm, ASKED, Law(0.0), 0).completions
    return {
        **after,
        "changed": [c.ids for c in before] != after["ids"],
        "same": [c.ids for c in local] == after["ids"],
        "prompts": scored(engine, lm),
    }


def main(model: str, other: str, report: str) -> None:
    lm = load(model)
    engine = Vllm(context=384, cache=2**26, rows=64, eager=True, tolerance=1e-3)
    found = {
        "laws": [gap(lm, ASKED, engine.draw(lm, ASKED, law, 3), law) for law in LAWS],
        "frequencies": [frequencies(engine, lm, law) for law in (Law(), Law(0.6, top_k=9))],
        "greedy": [c.ids for c in Local().draw(lm, ASKED, Law(0.0), 3).completions],
        "again": [c.ids for c in engine.draw(lm, ASKED[::-1], Law(), 3).completions[::-1]],
        "other_seed": [c.ids for c in engine.draw(lm, ASKED, Law(), 4).completions],
        "prompts": scored(engine, lm),
    }
    begun = [replace(request, begun=(30, 31, 32)) for request in ASKED]
    found["begun"] = gap(lm, begun, engine.draw(lm, begun, Law(), 3), Law())
    found["updated"] = follow(engine, lm)
    found["lora"] = follow(engine, load(model, lora=4))
    many = [Request(tuple((i + j) % 190 + 7 for j in range(300)), 0, 8) for i in range(40)]
    found["many"] = gap(lm, many, engine.draw(lm, many, Law(), 0), Law())
    shared = [Request(SHARED, number, 2) for number in range(4)]
    found["read"] = [engine.draw(lm, shared, Law(), seed).read for seed in (0, 1)]
    long = [Request(SHARED * 2, 0, 24)]
    found["refusals"] = {
        "long": refusal(lambda: engine.draw(lm, long, Law(), 0)),
        "other": refusal(lambda: engine.draw(load(other), ASKED, Law(), 0)),
        "sleeps": refusal(lambda: Vllm(sleeps=True).draw(lm, ASKED, Law(), 0)),
        "short": refusal(lambda: engine.prompt_logps(lm, [[5]])),
    }
    with open(report, "w", encoding="utf-8") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
