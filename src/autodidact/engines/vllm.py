"""The vLLM engine: vLLM in this process, on a copy of the policy's weights."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from autodidact.engine import Drawn, Request, fits
from autodidact.engines.outside import (
    Answer,
    accepted,
    check,
    checkpoint,
    sampling,
    served,
    signature,
)
from autodidact.law import Law
from autodidact.model import LM

MISSING = "the vLLM engine needs the package vllm: pip install 'autodidact[vllm]'"


@dataclass(eq=False)
class Vllm:
    """Draws with vLLM on the device of the policy, in the policy's precision.

    vLLM starts at the first draw and gets the weights then, and again before a draw that follows
    a change of them; nobody has to tell it. LoRA is merged into what it gets. The first
    completions of each draw are read again by the policy, so that a transfer that failed is an
    error. Neither the generation config of the model nor vLLM's defaults have a say in the
    law. One device, one process: for more of either, start a server and use `Server`.

    A completion depends on the seed, its prompt, its number and the number of tokens already
    there; a draw that goes on does not repeat the one that it goes on from. `logp` is vLLM's own
    number. Where the law truncates, `raw` and `support` are the policy's, see
    `outside.accepted`; else `raw` is `logp`.

    Attributes:
        context: tokens of the longest row; that of the model by default.
        memory: share of the device that vLLM may take, weights and cache together.
        cache: bytes for keys and values, instead of what `memory` leaves.
        rows: at most this many completions are written at a time.
        eager: do not compile, which starts faster and draws more slowly.
        sleeps: allow `sleep`, where the platform does.
        tolerance: how many nats vLLM's log-probabilities may be off in the mean.
    """

    context: int | None = None
    memory: float = 0.4
    cache: int | None = None
    rows: int = 256
    eager: bool = False
    sleeps: bool = False
    tolerance: float = 0.1
    name: ClassVar[str] = "vllm"
    _llm: Any = field(default=None, init=False, repr=False)
    _config: str = field(default="", init=False, repr=False)
    _weights: int | None = field(default=None, init=False, repr=False)
    _asleep: bool = field(default=False, init=False, repr=False)

    def draw(self, lm: LM, requests: Sequence[Request], law: Law, seed: int) -> Drawn:
        """One completion of each request, drawn from exactly that law.

        Raises:
            ValueError: vLLM is not installed; a request that does not fit; min-p together with
                top-p, whose order is another there; a temperature between 0 and 0.01; another
                model than at the first draw; or log-probabilities that are not the policy's.
        """
        fits(lm, requests)
        self._fits(requests)
        served(law)
        self._follow(lm)
        asked = [sampling(lm, request, law, seed) for request in requests]
        outputs = self._generate([r.read for r in requests], [{"logprobs": 0, **a} for a in asked])
        answers = [_answer(output) for output in outputs]
        for request, answer in zip(requests, answers, strict=True):
            check(lm, request, answer, "vLLM")
        return accepted(lm, requests, answers, law, self.tolerance, "vLLM")

    def prompt_logps(self, lm: LM, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probabilities of given tokens at temperature 1, the first token's excepted.

        Args:
            prompts: rows of at least two tokens, shorter than the context by one.

        Returns:
            For each row one number less than it has tokens: entry i is about token i + 1.

        Raises:
            ValueError: a row that is too short or too long, and as `draw`.
        """
        for prompt in prompts:
            if not 2 <= len(prompt) < (self.context or lm.context):
                raise ValueError(
                    f"a row of {len(prompt)} tokens cannot be scored: 2 to "
                    f"{(self.context or lm.context) - 1} are allowed"
                )
        self._follow(lm)
        one = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        found = self._generate(prompts, [one] * len(prompts))
        return [
            [
                given[word].logprob
                for word, given in zip(row[1:], out.prompt_logprobs[1:], strict=True)
            ]
            for row, out in zip(prompts, found, strict=True)
        ]

    def sleep(self) -> None:
        """Move the weights off the device and drop the cache, until the next draw or `wake`.

        Raises `ValueError` unless the engine was made with `sleeps=True`.
        """
        if not self.sleeps:
            raise ValueError("this engine cannot sleep: make it with Vllm(sleeps=True)")
        if self._llm is not None and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True

    def wake(self) -> None:
        """Take up the device again. A draw does so by itself."""
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _fits(self, requests: Sequence[Request]) -> None:
        longest = max(len(request.read) + request.length for request in requests)
        if self.context is not None and longest > self.context:
            raise ValueError(f"a row of {longest} tokens does not fit Vllm(context={self.context})")

    def _generate(self, prompts: Sequence[Sequence[int]], params: list[dict]) -> list[Any]:
        from vllm import SamplingParams

        return self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            [SamplingParams(detokenize=False, **each) for each in params],
            use_tqdm=False,
        )

    def _follow(self, lm: LM) -> None:
        """Start if need be, and hand over the weights unless vLLM has them already."""
        config = _config(lm)
        if self._llm is None:
            self._llm, self._config = self._start(lm, config), config.to_json_string()
        elif self._config != config.to_json_string():
            raise ValueError(
                f"this engine was started for another model than {lm.name}: make a second Vllm"
            )
        self.wake()
        if self._weights == (weights := signature(lm)):
            return
        self._llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": iter(checkpoint(lm).items())}
        )
        self._llm.apply_model(_repack_head)
        self._llm.reset_prefix_cache()
        self._weights = weights

    def _start(self, lm: LM, config: Any) -> Any:
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise ValueError("Vllm runs in a single process; use Server with several")
        # Tensors can be handed over only within a process.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        try:
            from vllm import LLM
            from vllm.platforms import current_platform
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise
            raise ValueError(MISSING) from error
        if self.sleeps and not current_platform.is_sleep_mode_available():
            raise ValueError(
                f"sleeps=True is not allowed: vLLM cannot sleep on {current_platform.device_name}"
            )
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
            config.save_pretrained(folder)
            lm.tokenizer.save_pretrained(folder)
            return LLM(
                model=folder,
                load_format="dummy",  # the weights come from memory
                dtype="bfloat16" if lm.autocast else str(config.dtype).removeprefix("torch."),
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                max_model_len=self.context or lm.context,
                max_num_seqs=self.rows,
                gpu_memory_utilization=self.memory,
                kv_cache_memory_bytes=self.cache,
                enable_prefix_caching=True,
                # On a CPU a prompt read in pieces rewinds its generator, which cannot be done.
                enable_chunked_prefill=not current_platform.is_cpu(),
                enforce_eager=self.eager,
                enable_sleep_mode=self.sleeps,
            )


def _config(lm: LM) -> Any:
    """The config of the policy as vLLM has to see it."""
    config = copy.deepcopy(lm.base.config)
    config.architectures = [type(lm.base).__name__]
    config.dtype = lm.base.dtype
    return config


def _repack_head(model: Any) -> None:
    """On a CPU vLLM multiplies by a packed copy of the head, stale where it is tied."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead) and module.weight.device.type == "cpu":
            module.quant_method.process_weights_after_loading(module)


def _answer(output: Any) -> Answer:
    [drawn] = output.outputs
    ids = list(drawn.token_ids)
    logps = [given[word].logprob for word, given in zip(ids, drawn.logprobs, strict=True)]
    return Answer(ids, logps, len(output.prompt_token_ids) - (output.num_cached_tokens or 0))
