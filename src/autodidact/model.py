"""A language model in a role: loading, prompts, hidden states and head.

Real hub models, local folders in Hugging Face format and the shipped tiny model ("tiny") load
the same way. Weights load from safetensors only, and no code of the model's author is run,
unless `unsafe_load` or `trust_remote_code` is asked for: see `trust`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int

from autodidact import masked, places, trust
from autodidact.adapter import adapt
from autodidact.attention import inside_documents, way
from autodidact.chat import remembered
from autodidact.head import Head, whole
from autodidact.problem import Message
from autodidact.trial import check, obstacle
from autodidact.trunk import recomputed
from autodidact.view import View

Precision = Literal["fp32", "bf16"]
TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"


@dataclass
class LM:
    """A transformers model with its tokenizer.

    Attributes:
        model: a causal language model, or a `PeftModel` around one.
        tokenizer: a fast tokenizer.
        name: the hub name or folder that it came from.
        adapter_off: read with the LoRA adapter disabled (the role "initial").
        autocast: run the trunk in bfloat16 over float32 weights.
        thinking: thinking mode of prompts whose caller does not say; `None` leaves the template
            its default.
        recompute: a backward pass computes activations again instead of keeping them.
    """

    model: Any
    tokenizer: Any
    name: str = "in memory"
    adapter_off: bool = False
    autocast: bool = False
    thinking: bool | None = None
    recompute: bool = False
    _rendered: dict[Any, list[int]] = field(default_factory=dict, repr=False)
    _obstacles: dict[str, str | None] = field(default_factory=dict, repr=False)

    @property
    def base(self) -> Any:
        """The transformers model, without a peft wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def causal(self) -> bool:
        """Whether a token reads only those before it; false for a masked language model."""
        return bool(getattr(self.base.config, "is_causal", True))

    @property
    def shift(self) -> int:
        """How many columns before a token the output about it stands."""
        return 1 if self.causal else int(getattr(self.base.config, "output_shift", 0))

    @property
    def mask(self) -> int:
        """The token that stands for one not known yet; `ValueError` where there is none."""
        found = getattr(self.base.config, "mask_token_id", None)
        found = self.tokenizer.mask_token_id if found is None else found
        if found is None:
            raise ValueError(
                f"{self.name} has no mask token: it is no masked language model. Give a LLaDA or "
                "Dream checkpoint, 'tiny_diffusion', or a folder whose config.json has is_causal "
                "false and mask_token_id"
            )
        return int(found)

    @property
    def device(self) -> torch.device:
        return next(self.base.parameters()).device

    @property
    def context(self) -> int:
        """How many tokens a row may have."""
        config = self.base.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 2**31)

    @property
    def end(self) -> int:
        """The token that ends a completion; `ValueError` where the tokenizer has none."""
        if self.tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {self.name} has no end token (eos_token)")
        return int(self.tokenizer.eos_token_id)

    @property
    def ends(self) -> frozenset[int]:
        """Every token that ends a completion: the tokenizer's and the generation config's."""
        configured = getattr(self.base.generation_config, "eos_token_id", None)
        listed = [configured] if isinstance(configured, int) else configured or []
        return frozenset([self.end, *listed])

    def render(
        self, messages: Sequence[Message], thinking: bool | None = None, answered: bool = False
    ) -> list[int]:
        """Token ids of a prompt, up to where the assistant begins, see `chat.rendered`."""
        thinking = self.thinking if thinking is None else thinking
        return remembered(self, self._rendered, messages, thinking, answered)

    def encode(self, text: str) -> list[int]:
        """Token ids of a completion, its end token included."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def text(self, ids: Sequence[int]) -> str:
        """A completion as text, up to the first token that ends it."""
        stop = next((i for i, word in enumerate(ids) if word in self.ends), len(ids))
        return self.decode(ids[:stop])

    def reading(self):
        """Context in which the trunk runs as this role does."""
        return self.model.disable_adapter() if self.adapter_off else nullcontext()

    def hidden(
        self, ids: Int[torch.Tensor, "R S"], real: Bool[torch.Tensor, "R C"], **options: Any
    ) -> Any:
        """The trunk's output object; its `last_hidden_state` is [R, S, D].

        `real` also covers the columns in a cache, if any, so that C >= S.

        Raises:
            ValueError: the model was left on paged attention, which reads other rows' tokens here.
        """
        backend = self.base.config._attn_implementation
        if backend.startswith("paged"):
            raise ValueError(
                f"{type(self.base).__name__} ({self.name}) was left on the attention {backend!r}, "
                "as `generate_batch` of transformers does; anything else it reads would be wrong: "
                f"call model.set_attn_implementation({backend.partition('|')[2]!r})"
            )
        with self.reading(), torch.autocast(self.device.type, torch.bfloat16, self.autocast):
            return self.base.base_model(input_ids=ids, attention_mask=real.long(), **options)

    def read(self, view: View, **options: Any) -> Any:
        """The trunk's output object for a view, packed or not, as `hidden` gives it.

        Raises `ValueError` for a packed view that this model cannot read, with the reason.
        """
        if view.position is not None:
            options["position_ids"] = view.position
        if view.document is None:
            with self._sparing(nullcontext):
                return self.hidden(view.ids, view.real, **options)
        reason = self.obstacle
        if reason is None and view.parent is not None and not self.shares:
            reason = "shared prefixes need " + ("another backend" if self.causal else "causality")
        if reason is not None:
            raise ValueError(
                f"{type(self.base).__name__} ({self.name}) cannot read this packed view: {reason}"
            )
        documents = partial(inside_documents, self.base.base_model, view)
        with documents() as more, self._sparing(documents):
            return self.hidden(view.ids, view.real, **options, **more)

    def _sparing(self, again: Callable[[], AbstractContextManager]) -> AbstractContextManager:
        """Context of a pass that keeps few activations, where that is asked for."""
        if not (self.recompute and torch.is_grad_enabled()):
            return nullcontext()
        return recomputed(self.base.base_model, again)

    @property
    def obstacle(self) -> str | None:
        """Why packed views cannot be read, `None` where they can; tried out at the first use."""
        backend = self.base.config._attn_implementation
        if backend not in self._obstacles:
            self._obstacles[backend] = obstacle(self)
        return self._obstacles[backend]

    @property
    def packs(self) -> bool:
        """Whether packed views can be read."""
        return self.obstacle is None

    @property
    def shares(self) -> bool:
        """Whether packed views with shared prefixes can be read."""
        return self.packs and self.causal and way(self.base.base_model) != "varlen"

    def head(self) -> Head:
        """The output head, over the live weights; all of them where they are sharded.

        Where the trunk runs in bfloat16 on a GPU the head does too, with sums in float32: there
        its products in float32 would take most of a step.
        """
        layer = self.base.get_output_embeddings()
        weight, bias = whole(layer.weight), getattr(layer, "bias", None)
        if self.autocast and weight.is_cuda:
            weight = weight.bfloat16()
        config = self.base.config.get_text_config()
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        softcap = getattr(config, "final_logit_softcapping", None)
        return Head(weight, None if bias is None else whole(bias), scale, softcap)

    def check(self) -> None:
        """Refuse, by name, an architecture whose logits are not head(trunk(x)), or not causal."""
        check(self)


def load(
    name: str,
    *,
    precision: Precision = "fp32",
    lora: int = 0,
    lora_alpha: int | None = None,
    device: str | None = None,
    thinking: bool | None = None,
    trust_remote_code: bool = False,
    unsafe_load: bool = False,
    seed: int = 0,
) -> LM:
    """Load a model by hub name, local folder, or "tiny" (shipped with the package).

    Args:
        name: of the hub as owner/name, or owner/name@revision: a branch, tag or commit.
        precision: "bf16" runs the trunk in bfloat16. Weights that are trained stay in float32,
            as an update of 1e-6 is lost in bfloat16; frozen ones (LoRA) are stored in bfloat16.
        lora: rank of an adapter on all linear layers; 0 trains all weights.
        lora_alpha: scale of the adapter; twice the rank by default.
        trust_remote_code: run the code that comes with the model; of the hub only at a commit.
        unsafe_load: where there are no safetensors, read pickled weights, tensors only.
        seed: of the adapter's initialisation.

    Raises:
        ValueError: no model by that name or at that place, code or pickles that were not asked
            for, no such device, or an architecture whose logits are not its head applied to its
            last hidden state.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = trust.source(name, code=trust_remote_code, pickles=unsafe_load)
    place, device = source.place, places.device(device)
    half = precision == "bf16"
    stored = torch.bfloat16 if half and lora else torch.float32
    try:
        folder = None if trust_remote_code else masked.published(place, source.revision)
        if folder is not None:
            tokenizer, model = masked.tokenizer(folder), masked.read(folder).to(stored)
        else:
            tokenizer = AutoTokenizer.from_pretrained(place, **source.options)
            model = AutoModelForCausalLM.from_pretrained(
                place, dtype=stored, use_safetensors=None if unsafe_load else True, **source.options
            )
        # A row that is too long is refused by name; the tokenizer's own warning says less.
        tokenizer.deprecation_warnings[TOO_LONG] = True
    except (OSError, trust.NotTensors) as error:
        reason = trust.reason(error)
        raise ValueError(f"no model could be loaded from {name!r}: {reason}") from error
    model.requires_grad_(not lora)
    model.to(device).eval()
    lm = LM(model, tokenizer, name, autocast=half, thinking=thinking)
    lm.check()
    if lora:
        lm.model = adapt(model, lora, lora_alpha or 2 * lora, seed).eval()
    return lm
