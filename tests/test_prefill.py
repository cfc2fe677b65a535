"""Prompts read in packed rows leave the cache, and the completions, of prompts read one by one."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from transformers import DynamicCache

from architectures import CAUSAL, RECURRENT, NoWords, build
from autodidact.attention import capacity
from autodidact.engines import prefill
from autodidact.engines.prefill import Prefilled, empty_cache, tokens_read
from autodidact.law import Law
from autodidact.model import LM
from autodidact.models import Models
from autodidact.rollouts.sample import complete
from test_attention import MORE
from test_attention import REFUSED as NOT_PACKED
from toys import generate, random_qwen

HEAD = [(7 * i) % 50 + 5 for i in range(18)]
TURN = [(11 * i) % 40 + 6 for i in range(17)]
PROMPTS = {
    "ragged": [[7, 8, 9], [10, 11, 12, 13, 14, 15, 16, 17], [20], [30, 31, 32, 33, 34]],
    "one beginning": [[*HEAD, 7], [*HEAD, 8, 9, 10], [5, 6], HEAD],
    "nested, and one twice": [[*HEAD, 3], [*HEAD, *TURN], [*HEAD, *TURN, 4, 5], [*HEAD, *TURN]],
    "equal lengths": [[7, 8, 9], [10, 11, 12], [13, 14, 15]],
    "one": [[7, 8, 9, 10]],
}
READ = {"ragged": 17, "one beginning": 18 + 4 + 2, "nested, and one twice": 18 + 1 + 17 + 2,
        "equal lengths": 9, "one": 4}  # fmt: skip
WINDOW = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}


def states(layer) -> list[torch.Tensor]:
    return [layer.keys, layer.values]


def assert_read_alone(lm: LM, prompts: list[list[int]], found: Prefilled, tolerance: float) -> None:
    """Keys, values and the last hidden state of each prompt are those of a pass of its own."""
    longest = max(map(len, prompts))
    assert found.real.shape == (len(prompts), longest)
    assert found.real.sum(1).tolist() == [len(prompt) for prompt in prompts]
    assert found.real[:, -1].all() and found.position.tolist() == [len(p) - 1 for p in prompts]
    assert found.cache.get_seq_length() == longest
    for row, prompt in enumerate(prompts):
        cache, ids = DynamicCache(), torch.tensor([prompt])
        with torch.no_grad():
            hidden = lm.hidden(
                ids, torch.ones_like(ids, dtype=torch.bool), past_key_values=cache, use_cache=True
            ).last_hidden_state[0, -1]
        assert (found.hidden[row] - hidden).norm() < tolerance * hidden.norm()
        for layer, alone in zip(found.cache.layers, cache.layers, strict=True):
            for one, two in zip(states(layer), states(alone), strict=True):
                size = min(one.shape[2], len(prompt))
                part, expected = one[row, :, one.shape[2] - size :], two[0, :, len(prompt) - size :]
                assert (part - expected).norm() <= tolerance * expected.norm()


@pytest.fixture
def padded(monkeypatch):
    """Read without packing, for comparison."""

    def off():
        monkeypatch.setattr(prefill, "lean", lambda lm, view: view)

    return off


@pytest.fixture
def fed(qwen):
    """Shapes that the trunk of `qwen` is fed, and the real tokens in them."""
    seen = []
    assert qwen.packs

    def hook(trunk, args, kwargs):
        seen.append((tuple(kwargs["input_ids"].shape), int(kwargs["attention_mask"].sum())))

    qwen.base.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    return seen


# ------------------------------------------------------------------ exact, in float64


@pytest.mark.parametrize("case", PROMPTS)
@pytest.mark.parametrize("ways", ["segments", "masks"])
def test_the_cache_is_that_of_prompts_read_alone(tokenizer, case, ways):
    lm = random_qwen(tokenizer)  # two heads share one head of keys
    lm.base.base_model._supports_attention_backend = ways == "segments"
    assert lm.packs
    found = prefill.prefill(lm, PROMPTS[case])
    assert {layer.keys.shape[1] for layer in found.cache.layers} == {1}
    assert_read_alone(lm, PROMPTS[case], found, 1e-10)


@pytest.mark.parametrize("case", PROMPTS)
@pytest.mark.parametrize("window", [2, 3, 20])
def test_layers_with_a_window_keep_the_last_columns_only(tokenizer, case, window):
    lm, prompts = random_qwen(tokenizer, sliding_window=window, **WINDOW), PROMPTS[case]
    found = prefill.prefill(lm, prompts)
    kept, whole = (layer.keys.shape[2] for layer in found.cache.layers)
    longest = max(map(len, prompts))
    assert whole == longest and kept == min(window - 1, longest)
    assert_read_alone(lm, prompts, found, 1e-10)


@pytest.mark.parametrize("case", PROMPTS)
def test_decoding_goes_on_as_from_a_padded_cache(tokenizer, case, padded):
    """Hidden states of two further tokens, the window of one layer passed, and after selecting."""
    lm, prompts = random_qwen(tokenizer, sliding_window=4, **WINDOW), PROMPTS[case]

    def further() -> torch.Tensor:
        cache, hidden, real, position, _ = prefill.prefill(lm, prompts)
        source = torch.arange(len(prompts)).repeat_interleave(2)
        cache.batch_select_indices(source)
        seen, real, position = [hidden[source]], real[source], position[source]
        for step in range(2):
            position, real = position + 1, torch.nn.functional.pad(real, (0, 1), value=True)
            token = (40 + 7 * step + torch.arange(len(source)))[:, None]
            with torch.no_grad():
                output = lm.hidden(
                    token, real, position_ids=position[:, None], past_key_values=cache,
                    use_cache=True,
                )  # fmt: skip
            seen.append(output.last_hidden_state[:, 0])
        return torch.stack(seen)

    one = further()
    padded()
    two = further()
    assert (one - two).norm() < 1e-10 * two.norm()


# ------------------------------------------------------------------ what is read


@pytest.mark.parametrize("case", PROMPTS)
def test_no_padding_is_read_and_a_shared_beginning_once(qwen, fed, case):
    prefill.prefill(qwen, PROMPTS[case])
    [((rows, columns), real)] = fed
    assert real == READ[case] == rows * columns == tokens_read(qwen, PROMPTS[case])
    packed = case not in ("equal lengths", "one")
    assert rows == (1 if packed else len(PROMPTS[case]))
    assert len(fed) == 1, "tokens are counted without reading them"


def test_the_ledger_counts_what_is_read(qwen, fed):
    models = Models(qwen)
    complete(models, PROMPTS["one beginning"], 3, 1, Law(), 0)
    [(_, real)] = fed
    assert models.ledger.prefilled == real == READ["one beginning"]


def test_models_that_cannot_pack_read_padded():
    lm, prompts = LM(build("bloom", CAUSAL["bloom"]), NoWords(), "bloom"), PROMPTS["ragged"]
    seen = []
    assert not lm.packs
    lm.base.base_model.register_forward_pre_hook(
        lambda trunk, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = prefill.prefill(lm, prompts)
    assert seen == [(4, 8)] and tokens_read(lm, prompts) == 17
    assert_read_alone(lm, prompts, found, 2e-5)


def test_a_cache_of_another_kind_is_filled_by_the_model_itself(qwen, fed, monkeypatch):
    from transformers.cache_utils import DynamicLayer

    class More(DynamicLayer):
        """Keeps something beside keys and values, which nobody here would unpack."""

    def other(lm):
        cache = empty_cache(lm)
        cache.layers = [More() for _ in cache.layers]
        return cache

    monkeypatch.setattr(prefill, "empty_cache", other)
    found = prefill.prefill(qwen, PROMPTS["ragged"])
    assert fed[0] == ((4, 8), 17) and type(found.cache.layers[0]) is More


def test_recurrent_models_are_refused():
    lm = LM(build("mamba", RECURRENT["mamba"]), NoWords(), "a tiny mamba")
    with pytest.raises(ValueError, match=r"MambaForCausalLM \(a tiny mamba\).*recurrent"):
        prefill.prefill(lm, PROMPTS["ragged"])


# ------------------------------------------------------------------ architectures


DRAWING = {
    kind: sizes
    for kind, sizes in (CAUSAL | MORE).items()
    if kind not in ("lfm2", "jamba", "qwen3_next")  # recurrent
}


@pytest.mark.parametrize("kind", DRAWING)
def test_every_architecture_draws_the_same_from_packed_prompts(kind, padded):
    lm = LM(build(kind.split()[0], DRAWING[kind]), NoWords(), kind)
    prompts = [p for case in ("ragged", "nested, and one twice") for p in PROMPTS[case]]
    assert lm.packs == (kind not in NOT_PACKED)
    expected = 17 + 38 if lm.packs else 17 + 19 + 35 + 37 + 35
    if lm.packs and capacity(lm.base.base_model):
        expected = 17 + (18 + 1 + 17) + (35 + 2)  # the tree is cut into two that fit a row
    assert tokens_read(lm, prompts) == expected
    if kind != "gpt_neo":  # its window of columns has a table that a row alone reads otherwise
        assert_read_alone(lm, prompts, prefill.prefill(lm, prompts), 2e-5)
    samples = [[0, 1]] * 7 + [[2, 3]]
    one = generate(lm, prompts, samples, 8, Law(), 0)
    padded()
    two = generate(lm, prompts, samples, 8, Law(), 0)
    for found, other in zip(chain(*one), chain(*two), strict=True):
        assert found.ids == other.ids and found.finished == other.finished
        assert found.raw == pytest.approx(other.raw, abs=1e-5)
        assert found.logp == pytest.approx(other.logp, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_tiny_model_draws_the_same(precision, padded):
    from autodidact.model import load

    lm = load("tiny", precision=precision)
    prompts = [
        lm.render([{"role": "user", "content": text}])
        for text in ("7+8*3", "13+19-4*3", "reverse:kdob", "solution:\n8*3=24\n7+24=31\n7+8*3")
    ]
    one = prefill.prefill(lm, prompts)
    padded()
    two = prefill.prefill(lm, prompts)
    bound = 1e-5 if precision == "fp32" else 3e-2
    assert (one.hidden - two.hidden).norm() < bound * two.hidden.norm()
    assert one.hidden.dtype == two.hidden.dtype
    for layer, other in zip(one.cache.layers, two.cache.layers, strict=True):
        for x, y in zip(states(layer), states(other), strict=True):
            x, y = (each.transpose(1, 2)[one.real] for each in (x, y))
            assert x.dtype == y.dtype and (x - y).norm() < bound * y.norm()
