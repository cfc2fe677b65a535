"""Tokens a second of the local engine: `python -m benchmarks.rollout`.

A random Qwen3 of 4 layers, 256 numbers and 4,096 words (`--hidden 768 --layers 14`: of 100 million
parameters) draws at temperature 1 from its whole law, and the log-probability of every token is
kept.

batch 1, 16, 64, 256   prompts of 32 tokens, completions of 128
ragged            64 prompts; each token ends its completion with probability 1/33, the 128th always
waiting           256 such prompts in 64 places: those that become free are taken at once
shared prompt     8 prompts of 256 tokens, 8 completions of 64 tokens each

generate     of transformers with `output_logits`, from which it takes log-probabilities; "waiting"
             gives it four batches of 64
continuous   transformers' continuous batching (`generate_batch`), with `return_logprobs`
vllm         vLLM with `logprobs=0`, in a process and an environment of its own (`--vllm PYTHON`)

Tokens after the end of a completion do not count. All sides draw from the same law; what that is
worth is tested in `tests/test_engine.py` and `tests/peers`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autodidact.engine import Request
from autodidact.engines.local import Local
from autodidact.law import Law
from autodidact.model import LM
from autodidact.statistics import percentiles
from benchmarks.measuring import timed
from benchmarks.random_model import WORDS, Silent, random_qwen
from benchmarks.table import Row, machine, show, write

RARE = (WORDS - 1,)
PAGE = 16
"""Tokens of a page of transformers' paged cache."""
OFTEN = tuple(range(WORDS - WORDS // 33, WORDS))
"""End tokens: a random model gives every word about the same chance."""


@dataclass(frozen=True)
class Case:
    prompts: int
    length: int
    new: int
    samples: int = 1
    ends: tuple[int, ...] = RARE
    slots: int = 64


CASES = {
    "batch 1": Case(1, 32, 128),
    "batch 16": Case(16, 32, 128),
    "batch 64": Case(64, 32, 128),
    "batch 256": Case(256, 32, 128, slots=256),
    "ragged": Case(64, 32, 128, ends=OFTEN),
    "waiting": Case(256, 32, 128, ends=OFTEN),
    "shared prompt": Case(8, 256, 64, samples=8),
}


def model(hidden: int, layers: int) -> LM:
    return LM(random_qwen(hidden, layers), Silent(), "random Qwen3")


def prompts_of(case: Case, seed: int) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    shape = (case.prompts, case.length)
    return torch.randint(2, WORDS // 2, shape, generator=random).tolist()


def ours(lm: LM, case: Case, seed: int) -> int:
    asked = [
        Request(tuple(prompt), number, case.new)
        for prompt in prompts_of(case, seed)
        for number in range(case.samples)
    ]
    found = Local(max(case.slots, case.samples)).draw(lm, asked, Law(), seed)
    return sum(len(each.ids) for each in found.completions)


@torch.no_grad()
def generate(lm: LM, case: Case, seed: int) -> int:
    torch.manual_seed(seed)
    prompts, count = prompts_of(case, seed), 0
    for start in range(0, len(prompts), case.slots):
        ids = torch.tensor(prompts[start : start + case.slots])
        found = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0,
            temperature=1.0, max_new_tokens=case.new, num_return_sequences=case.samples,
            return_dict_in_generate=True, output_logits=True, pad_token_id=0,
            eos_token_id=list(case.ends),
        )  # fmt: skip
        drawn = found.sequences[:, ids.shape[1] :]
        logp = [
            logits.log_softmax(-1).gather(1, drawn[:, i : i + 1])
            for i, logits in enumerate(found.logits)
        ]
        assert torch.cat(logp, 1).shape == drawn.shape
        ended = torch.isin(drawn, torch.tensor(case.ends)).long().cumsum(1)
        # A token counts until the first end, which counts too.
        count += int((ended - torch.isin(drawn, torch.tensor(case.ends)).long() == 0).sum())
    return count


def continuous(lm: LM, case: Case, seed: int) -> int:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    torch.manual_seed(seed)
    prompts = [each for each in prompts_of(case, seed) for _ in range(case.samples)]
    pages = -(-(case.length + case.new) // PAGE) * case.slots * case.samples
    before = lm.base.config._attn_implementation
    found = lm.model.generate_batch(
        prompts,
        GenerationConfig(
            do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=case.new,
            eos_token_id=list(case.ends), pad_token_id=0,
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=pages, max_batch_tokens=max(512, case.slots),
            return_logprobs=True,
        ),
    )  # fmt: skip
    lm.model.set_attn_implementation(before)
    assert len(found) == len(prompts)
    assert all(len(one.logprobs) == len(one.generated_tokens) for one in found.values())
    return sum(len(one.generated_tokens) for one in found.values())


class Vllm:
    """The worker in vLLM's own environment, asked line by line."""

    def __init__(self, python: Path, lm: LM):
        self.folder = tempfile.TemporaryDirectory()
        lm.model.save_pretrained(self.folder.name)
        worker = Path(__file__).with_name("rollout_vllm.py")
        threads = str(torch.get_num_threads())
        more = {
            "OMP_NUM_THREADS": threads, "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [python, worker, self.folder.name], env=os.environ | more, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.version = self._read()["version"]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the worker of vLLM ended with status {self.process.wait()}")

    def rate(self, case: Case, seed: int) -> float:
        """Tokens a second, as `speed` counts them."""
        assert self.process.stdin is not None
        asked = {
            "prompts": prompts_of(case, seed), "samples": case.samples, "length": case.new,
            "ends": case.ends,
        }  # fmt: skip
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        found = self._read()
        return found["tokens"] / found["cpu" if torch.get_num_threads() == 1 else "wall"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


def speed(side: Callable[[LM, Case, int], int], lm: LM, case: Case, seed: int) -> float:
    """Tokens a second of the processor with one thread, of the clock with several."""
    count, wall, cpu = timed("cpu", lambda: side(lm, case, seed))
    return count / (cpu if torch.get_num_threads() == 1 else wall)


def interval(one: Sequence[float], two: Sequence[float]) -> tuple[float, float]:
    """95% bootstrap interval of the ratio of two medians over paired repeats."""
    both = np.array([one, two])
    drawn = np.random.default_rng(0).integers(both.shape[1], size=(4000, both.shape[1]))
    first, second = np.median(both[:, drawn], -1)
    return percentiles(first / second)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollout", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--hidden", type=int, default=256, metavar="D")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--continuous", action="store_true", help="transformers' too")
    parser.add_argument("--vllm", type=Path, metavar="PYTHON", help="of an environment with vLLM")
    parser.add_argument("--quick", action="store_true", help="two small cases, once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(arguments)
    cases = {name: CASES[name] for name in options.cases}
    if options.quick:
        options.hidden, options.layers, options.repeats = 64, 1, 1
        cases = {"batch 2": Case(2, 8, 8), "ragged": Case(6, 8, 16, ends=OFTEN, slots=3)}
    torch.set_num_threads(options.threads)
    print(machine())
    lm, rows = model(options.hidden, options.layers), []
    sides: dict[str, Callable[[Case, int], float]] = {
        call.__name__: partial(speed, call, lm)
        for call in (ours, generate, *([continuous] if options.continuous else []))
    }
    if options.vllm is not None:
        server = Vllm(options.vllm, lm)
        sides["vllm"] = server.rate
        print(f"vllm {server.version}, with {options.threads} threads of its own")
    for name, case in cases.items():
        lm.model.generation_config.eos_token_id = list(case.ends)
        found: dict[str, list[float]] = {side: [] for side in sides}
        for seed in range(-1, options.repeats):  # the first is a rehearsal
            for side in list(sides) if seed % 2 else list(sides)[::-1]:
                rate = sides[side](case, seed + 1)
                if seed >= 0:
                    found[side].append(rate)
        for side in list(sides)[1:]:
            medians = (float(np.median(found[each])) for each in ("ours", side))
            rows.append(Row(f"{name}: tokens / s", *medians, side))
            low, high = interval(found["ours"], found[side])
            print(f"{name}: ours / {side} {rows[-1].ratio:.2f} [{low:.2f}, {high:.2f}]", flush=True)
    if options.vllm is not None:
        server.close()
    show("Rollouts with log-probabilities", rows)
    if options.json is not None:
        write(options.json, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
