"""The lean decoder reads as the model does, and rows may join and leave without being noticed."""

from __future__ import annotations

import pytest
import torch

from architectures import CAUSAL, WINDOW, NoWords, build
from autodidact.adapter import adapt
from autodidact.engines import copies, local
from autodidact.engines.decoder import Whole
from autodidact.engines.lean import Lean, lean
from autodidact.law import Law
from autodidact.model import LM
from toys import generate

PROMPTS = [[5, 9, 11], [7], [3, 4, 5, 6, 7, 8, 9], [12, 13], [9, 9, 4, 1]]
SAMPLES = [[0, 1, 2], [0], [3, 1], [0, 1, 2, 3], [7]]
FAST = {"llama", "qwen2", "qwen3", "smollm3"}


def model(kind: str, dtype: torch.dtype = torch.float64) -> LM:
    return LM(build(kind, CAUSAL[kind]).to(dtype), NoWords(), kind)


def ids(found) -> list[list[list[int]]]:
    return [[each.ids for each in row] for row in found]


def drawn(lm: LM, slots: int = 256, seed: int = 0, law: Law | None = None):
    return generate(lm, PROMPTS, SAMPLES, 14, law or Law(), seed, slots)


@pytest.mark.parametrize("kind", CAUSAL)
def test_it_reads_the_kind_it_knows_and_leaves_all_others_to_transformers(kind):
    assert lean(model(kind)) == (kind in FAST)


@pytest.mark.parametrize("kind", sorted(FAST))
def test_it_draws_what_transformers_draws(monkeypatch, kind):
    lm = model(kind)
    fast = drawn(lm)
    monkeypatch.setattr(local, "lean", lambda lm: False)
    slow = drawn(lm)
    assert {len(each.ids) for row in slow for each in row} != {14}, "rows end at different times"
    for one, two in zip(fast, slow, strict=True):
        assert [each.ids for each in one] == [each.ids for each in two]
        assert [each.finished for each in one] == [each.finished for each in two]
        for a, b in zip(one, two, strict=True):
            assert a.raw == pytest.approx(b.raw, abs=1e-6)  # both are stored in float32


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
@pytest.mark.parametrize("slots", [1, 2, 3, 7])
def test_rows_that_wait_are_drawn_as_if_they_had_not(kind, slots):
    lm = model(kind)
    assert drawn(lm, slots) == drawn(lm)


def test_places_that_become_free_are_taken_at_once(monkeypatch):
    """Several prompts are read on the way, by a slab that never holds more than its places."""
    joined: list[tuple[int, int]] = []
    admit = Lean.admit

    def spied(self, prompts, copies):
        joined.append((len(self.start), sum(copies)))
        return admit(self, prompts, copies)

    lm = model("qwen3")
    lean(lm)
    monkeypatch.setattr(Lean, "admit", spied)
    drawn(lm, slots=4)
    assert sum(count for _, count in joined) == 11
    assert all(live + count <= 4 for live, count in joined)
    assert any(live for live, _ in joined), "some join rows that are on their way"


def test_many_short_rows_pass_through_few_places():
    """The columns move to the left as old rows leave: the slab is not as long as the whole work."""
    lm = model("qwen3")
    prompts = [[3 + i % 50, 4 + i % 7] for i in range(40)]
    found = generate(lm, prompts, [[0, 1]] * 40, 6, Law(), 1, slots=3)
    assert found == generate(lm, prompts, [[0, 1]] * 40, 6, Law(), 1)
    slab = Lean(lm, 3, 2, 6).slab
    assert slab.shape[2:5:2] == (3, 2 + 2 * 6)


def test_rows_that_are_over_may_stay_until_many_are(monkeypatch):
    """They read beyond their length, while rows that joined later are still on their way."""
    lm = model("qwen3")
    lm.model.generation_config.eos_token_id = list(range(2, 10))
    prompts = [[3 + i % 50, 4 + i % 7] for i in range(60)]
    expected = generate(lm, prompts, [[0]] * 60, 20, Law(), 1)
    assert len({len(row[0].ids) for row in expected}) > 10, "rows end at different times"
    monkeypatch.setattr(local, "RETIRE", 0.4)
    assert generate(lm, prompts, [[0]] * 60, 20, Law(), 1, slots=10) == expected


def test_large_weights_are_not_copied(monkeypatch):
    lm, other = model("qwen2"), model("qwen2")
    expected = drawn(lm)
    assert lm.model.base_model in copies._COPIES
    monkeypatch.setattr(copies, "COPIED", 0)
    found = drawn(other)
    assert other.model.base_model not in copies._COPIES
    assert ids(found) == ids(expected)


@pytest.mark.parametrize("how", ["an update", "loading", "a parameter of its own"])
def test_copies_follow_the_weights(how):
    lm, fresh = model("qwen3"), model("qwen3")
    before = ids(drawn(lm))
    assert ids(drawn(lm)) == before
    for each in (lm.model, fresh.model):
        layer = each.model.layers[1].mlp.up_proj
        if how == "an update":
            layer.weight.grad = torch.ones_like(layer.weight)
            torch.optim.AdamW([layer.weight], lr=0.5).step()
        elif how == "loading":
            layer.load_state_dict({"weight": -layer.weight.detach().clone()})
        else:
            layer.weight = torch.nn.Parameter(layer.weight.detach() * -2)
    assert ids(drawn(lm)) != before and ids(drawn(lm)) == ids(drawn(fresh))


def test_an_adapter_is_read_live():
    lm = model("qwen3", torch.float32)
    before = ids(drawn(lm))
    lm = LM(adapt(lm.model, 2, 4, 0).eval(), NoWords())
    assert lean(lm) and ids(drawn(lm)) == before, "an adapter starts at zero"
    with torch.no_grad():
        for name, value in lm.model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.3)
    assert ids(drawn(lm)) != before
    off = LM(lm.model, NoWords(), adapter_off=True)
    assert ids(drawn(off)) == before


def test_a_sliding_window_is_left_to_transformers():
    kind = CAUSAL["qwen2"] | WINDOW | {"use_sliding_window": True, "max_window_layers": 0}
    assert not lean(LM(build("qwen2", kind), NoWords()))


def test_a_model_that_looks_alike_but_is_another_is_found_out(monkeypatch):
    lm = model("llama")
    scaled = type(lm.model.model.norm).forward
    monkeypatch.setattr(
        type(lm.model.model.norm), "forward", lambda self, x: 1.01 * scaled(self, x)
    )
    assert not lean(lm)


@torch.no_grad()
def test_both_decoders_give_the_same_hidden_states_step_by_step():
    lm = model("qwen3")
    one, two = Lean(lm, 7, 7, 5), Whole(lm)
    states = [each.admit(PROMPTS, [1, 1, 2, 1, 1]) for each in (one, two)]
    assert torch.allclose(*states, rtol=1e-10)
    tokens = torch.tensor([3, 4, 5, 6, 7, 8])
    for keep in ([0, 1, 2, 3, 4, 5], [1, 2, 4, 5], [0, 3]):
        rows = torch.tensor(keep)
        one.keep(rows)
        two.keep(rows)
        tokens = tokens[rows] + 1
        states = [each.step(tokens) for each in (one, two)]
        # transformers forms its norms in float32, whatever the model is.
        assert torch.allclose(*states, rtol=1e-5, atol=1e-6)
