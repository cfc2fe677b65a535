"""Reading packed views with real architectures: hidden states and gradients are those of the rows.

The rows share prefixes of several lengths, and are longer than the windows of sliding attention.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from architectures import CAUSAL, GPT, HEADS, LLAMA, RECURRENT, SMALL, WORDS, NoWords, build
from autodidact import attention, model
from autodidact.adapter import adapt
from autodidact.attention import BACKENDS, capacity, inside_documents, way
from autodidact.batch import batch_of
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.pack import packed
from autodidact.view import View, plain
from test_pack import view_of
from toys import perturb, random_qwen, toy_task

HEAD, TURN = [3, 14, 15, 9, 26, 5], [35, 8, 9, 7]
ROWS = [
    [*HEAD, 11, 12], [*HEAD, *TURN, 13], [*HEAD, *TURN, 14, 15, 16, 17, 18], HEAD,
    [50, 51, 52, 53, 54, 55, 56], [7], [*HEAD, *TURN, 13],
]  # fmt: skip


def read(lm: LM, view: View) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Hidden states of the real tokens, row by row, and the gradients of every weight."""
    weights = [p for p in lm.base.base_model.parameters() if p.requires_grad]
    with torch.enable_grad():
        output = lm.read(view, use_cache=False).last_hidden_state
        hidden = output.flatten(0, 1)[view.at[view.asked]]
        factor = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view(hidden.shape)
        total = (hidden * factor).sum()
    found = torch.autograd.grad(total, weights, allow_unused=True)
    return hidden.detach(), [g for g in found if g is not None]


def alone(lm: LM, view: View) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The same, each row read by itself: no padding and no mask."""
    weights = [p for p in lm.base.base_model.parameters() if p.requires_grad]
    with torch.enable_grad():
        rows = [
            lm.hidden(ids[real][None], real[real][None], use_cache=False).last_hidden_state[0]
            for ids, real in zip(view.ids, view.real, strict=True)
        ]
        hidden = torch.cat(rows)
        factor = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view(hidden.shape)
        total = (hidden * factor).sum()
    found = torch.autograd.grad(total, weights, allow_unused=True)
    return hidden.detach(), [g for g in found if g is not None]


def assert_same(found, expected, tolerance: float) -> None:
    assert float((found[0] - expected[0]).norm() / expected[0].norm()) < tolerance
    assert len(found[1]) == len(expected[1]) > 0
    one, two = (torch.cat([g.flatten() for g in each[1]]) for each in (found, expected))
    assert float((one - two).norm() / two.norm()) < tolerance


LAYOUTS = {
    "one row": (None, None), "bins": (14, None), "tree": (None, 2), "trees in bins": (16, 2)
}  # fmt: skip


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


# ------------------------------------------------------------------ exact, in float64


@pytest.mark.parametrize("ways", ["segments", "masks"])
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_packed_is_read_as_its_rows(tokenizer, layout, backend, ways):
    lm = random_qwen(tokenizer)
    lm.model.set_attn_implementation(backend)
    lm.base.base_model._supports_attention_backend = ways == "segments"
    assert way(lm.base.base_model) == ways and lm.packs and lm.shares
    view = view_of(ROWS)
    found = packed(view, *layout)
    assert found.real.sum() <= view.real.sum() < view.real.numel()
    # Eager attention computes its weights in float32.
    assert_same(read(lm, found), alone(lm, view), 1e-10 if backend == "sdpa" else 1e-5)


@pytest.mark.parametrize("ways", ["segments", "masks"])
def test_sliding_windows_are_those_of_the_documents(tokenizer, layout, ways):
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
    lm = random_qwen(tokenizer, sliding_window=3, **kinds)
    lm.base.base_model._supports_attention_backend = ways == "segments"
    assert lm.obstacle is None
    view = view_of(ROWS)
    expected = alone(lm, view)
    assert_same(read(lm, packed(view, *layout)), expected, 1e-10)
    wide = random_qwen(tokenizer, sliding_window=30, **kinds)
    gap = (alone(wide, view)[0] - expected[0]).norm() / expected[0].norm()
    assert gap > 1e-2, "the window is felt"


def test_the_padded_view_is_the_same_too(qwen):
    view = view_of(ROWS)
    assert_same(read(qwen, view), alone(qwen, view), 1e-10)


def test_transformers_is_left_as_it_was(qwen):
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as ATTENTIONS

    tables = [dict(MASKS), dict(ATTENTIONS)]
    found = packed(view_of(ROWS), None, 2)
    with inside_documents(qwen.base.base_model, found):
        assert [dict(MASKS), dict(ATTENTIONS)] != tables
    with pytest.raises(ZeroDivisionError), inside_documents(qwen.base.base_model, found):
        raise ZeroDivisionError
    assert [dict(MASKS), dict(ATTENTIONS)] == tables


# ------------------------------------------------------------------ architectures


REFUSED = {
    "bloom": "takes no positions", "mpt": "takes no positions", "mamba": "takes no positions",
    "falcon with alibi": "looks beyond a document", "lfm2": "looks beyond a document",
    "jamba": "looks beyond a document", "gpt_neo": "looks beyond a document",
    "qwen3_next": "looks beyond a document",
}  # fmt: skip
"""Architectures that cannot read packed views, and why."""
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"], "num_experts": 2,
    "num_experts_per_tok": 1, "linear_num_value_heads": 2, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
MORE = {
    "falcon with alibi": HEADS | {"alibi": True},
    "lfm2": LLAMA | {"layer_types": ["conv", "full_attention"]},  # convolutions
    "jamba": LLAMA | {
        "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 4, "attn_layer_period": 2,
        "attn_layer_offset": 1,
    },  # recurrent layers
    "gpt_neo": {
        "vocab_size": WORDS, "hidden_size": 16, "num_layers": 2, "num_heads": 2,
        "attention_types": [[["global", "local"], 1]], "window_size": 4,
        "max_position_embeddings": 64,
    },  # a window of columns, in a table of its own
    "qwen3_next": LLAMA | SMALL | LINEAR,  # linear attention
    "gpt_bigcode": GPT,
    "deepseek_v3": HEADS | {
        "num_key_value_heads": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
        "topk_group": 1, "moe_intermediate_size": 16, "q_lora_rank": 8, "kv_lora_rank": 8,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1,
    },
}  # fmt: skip
ARCHITECTURES = {**CAUSAL, **RECURRENT, **MORE}


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_architecture_is_read_exactly_or_refused_with_the_reason(kind):
    model = build(kind.split()[0], ARCHITECTURES[kind])
    lm, view = LM(model, NoWords(), f"a tiny {kind}"), view_of(ROWS)
    found = packed(view, None, 2)
    if kind in REFUSED:
        assert not lm.packs and not lm.shares
        with pytest.raises(ValueError, match=rf"\(a tiny {kind}\).*packed view: .*{REFUSED[kind]}"):
            lm.read(found)
        return
    assert lm.obstacle is None and lm.shares
    for laid in (found, packed(view, 14)):
        assert_same(read(lm, laid), alone(lm, view), 2e-5)


def test_models_that_cannot_pack_are_read_padded():
    lm = LM(build("bloom", CAUSAL["bloom"]), NoWords(), "bloom")
    models, batch = Models(lm), rows_of_one_prompt(HEAD, [[7, 8, 9], [11]])
    view = plain(batch)
    assert models._packed(view) is view
    one = models.score(view, batch).logp
    models.pack = False
    assert torch.equal(models.score(view, batch).logp, one)


MASKED = {
    "bert": HEADS | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "modernbert": HEADS | {
        "local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 1,
        "sep_token_id": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", MASKED)
def test_a_masked_language_model_reads_its_document_in_both_directions(kind):
    from transformers import AutoConfig, AutoModelForMaskedLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **MASKED[kind])
        config.initializer_range = 0.3
        model = AutoModelForMaskedLM.from_config(config).eval()
    model.config.is_causal = False
    lm, view = LM(model, NoWords(), "masked"), view_of(ROWS)
    assert lm.obstacle is None and not lm.shares
    for limit in (None, 14):
        assert_same(read(lm, packed(view, limit)), alone(lm, view), 2e-5)
    with pytest.raises(ValueError, match="shared prefixes need causality"):
        lm.read(packed(view, None, 2))
    changed = view_of([[*row[:-1], 33] for row in ROWS[:1]])
    first, other = (alone(lm, v)[0][0] for v in (view_of(ROWS[:1]), changed))
    assert (first - other).norm() > 1e-3 * first.norm(), "the first token reads the last"


# ------------------------------------------------------------------ other precisions and adapters


def test_adapters_learn_the_same_and_can_be_switched_off(tokenizer):
    base = random_qwen(tokenizer)
    lm = replace(base, model=adapt(copy.deepcopy(base.model).requires_grad_(False), 4, 8, 0))
    lm.model.double().eval()
    perturb(lm, 0.3)
    view = view_of(ROWS)
    for capacity_, share in LAYOUTS.values():
        assert_same(read(lm, packed(view, capacity_, share)), alone(lm, view), 1e-10)
    assert len(read(lm, packed(view))[1]) == 2 * 2 * 7
    off = replace(lm, adapter_off=True)
    with torch.no_grad():
        found, expected, moved = (
            each.read(packed(view), use_cache=False).last_hidden_state for each in (off, base, lm)
        )
    assert torch.allclose(found, expected, rtol=1e-12) and not torch.allclose(found, moved)


@pytest.mark.parametrize("lora", [0, 4])
def test_under_autocast_packed_differs_by_rounding_only(lora):
    lm = load("tiny", precision="bf16", lora=lora)
    exact = replace(lm, autocast=False, model=copy.deepcopy(lm.model).float())
    assert lm.packs and lm.shares
    view = view_of([[i + 100 for i in row] for row in ROWS])
    with torch.no_grad():
        best = alone_hidden(exact, view)
        rounding = (alone_hidden(lm, view) - best).norm() / best.norm()
        for layout in LAYOUTS.values():
            found = packed(view, *layout)
            hidden = lm.read(found, use_cache=False).last_hidden_state.flatten(0, 1).float()
            gap = (hidden[found.at[found.asked]] - best).norm() / best.norm()
            assert 0 < gap < 2 * rounding < 0.1


def alone_hidden(lm: LM, view: View) -> torch.Tensor:
    rows = [
        lm.hidden(ids[real][None], real[real][None], use_cache=False).last_hidden_state[0]
        for ids, real in zip(view.ids, view.real, strict=True)
    ]
    return torch.cat(rows).float()


# ------------------------------------------------------------------ other backends


def test_an_unknown_backend_is_refused_by_name():
    class Trunk:
        config = SimpleNamespace(_attn_implementation="flex_atention")

        def forward(self, input_ids, position_ids=None): ...

    with pytest.raises(
        ValueError, match=r"'flex_atention' of Trunk .* did you mean 'flex_attention'"
    ):
        way(Trunk())
    for backend in BACKENDS:
        Trunk.config._attn_implementation, Trunk._supports_attention_backend = backend, False
        assert way(Trunk()) == ("varlen" if "flash" in backend else "masks")


def test_masks_of_an_architectures_own_making_are_refused(qwen):
    build_mask = attention._segments(packed(view_of(ROWS)), "sdpa")
    with pytest.raises(ValueError, match="functions of its own"):
        build_mask(mask_function=lambda b, h, q, k: q >= k, use_vmap=True)


def test_dense_masks_ask_for_rows_of_limited_length(qwen):
    trunk = qwen.base.base_model
    assert capacity(trunk) is None
    trunk._supports_attention_backend = False
    assert capacity(trunk) == trunk.config.hidden_size == 16
    trunk.config._attn_implementation = "flex_attention"
    assert capacity(trunk) is None


def test_varlen_is_given_the_lengths_of_the_documents(qwen, monkeypatch):
    """FlashAttention's kernel is played by dense attention over the lengths that it is given."""
    from transformers.integrations import flash_attention as integration

    seen = []

    def kernel(query, key, value, attention_mask, is_causal, softmax_scale, **options):
        assert attention_mask is None and is_causal
        lengths = options["cu_seq_lens_q"].diff().tolist()
        seen.append((lengths, options["max_length_q"], options["max_length_k"]))
        assert options["cu_seq_lens_q"].dtype == torch.int32
        assert torch.equal(options["cu_seq_lens_q"], options["cu_seq_lens_k"])
        pieces = zip(
            *(each.transpose(1, 2).split(lengths, 2) for each in (query, key, value)), strict=True
        )
        found = [
            torch.nn.functional.scaled_dot_product_attention(
                *piece, is_causal=True, scale=softmax_scale, enable_gqa=True
            )
            for piece in pieces
        ]
        return torch.cat(found, 2).transpose(1, 2)

    monkeypatch.setattr(integration, "_flash_attention_forward", kernel)
    view = view_of(ROWS)
    expected = alone(qwen, view)
    qwen.base.config._attn_implementation = "flash_attention_2"
    found = packed(view)
    with inside_documents(qwen.base.base_model, found) as options:
        assert options["cu_seq_lens_q"].tolist() == [0, 15, 26, 37, 45, 52, 58, 59]
    qwen._obstacles["flash_attention_2"] = None  # rows by themselves need the kernel proper
    assert_same(read(qwen, found), expected, 1e-10)
    assert seen == [([15, 11, 11, 8, 7, 6, 1], 15, 15)] * 2
    assert qwen.packs and not qwen.shares
    with pytest.raises(ValueError, match="shared prefixes need another backend"):
        qwen.read(packed(view, None, 2))
    for laid, reason in ((packed(view, 14), "one row"), (packed(view, None, 2), "shared prefixes")):
        with (
            pytest.raises(ValueError, match=reason),
            inside_documents(qwen.base.base_model, laid),
        ):
            pass


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # transformers and the compiler have their own
def test_flex_attention_reads_packed_views(tokenizer):
    lm = random_qwen(tokenizer, dtype=torch.float32, head_dim=16)
    view = view_of(ROWS)
    with torch.no_grad():
        expected = alone_hidden(lm, view)
        lm.model.set_attn_implementation("flex_attention")
        assert way(lm.base.base_model) == "masks" and lm.obstacle is None
        for layout in LAYOUTS.values():
            found = packed(view, *layout)
            hidden = lm.read(found, use_cache=False).last_hidden_state.flatten(0, 1)
            assert torch.allclose(hidden[found.at[found.asked]], expected, atol=1e-5)


# ------------------------------------------------------------------ scoring


def rows_of_one_prompt(prompt, completions):
    task = toy_task(1)
    count = len(completions)
    return batch_of(task.train * count, [prompt] * count, completions, task)


def scored(models: Models, views, batch):
    """Log-probabilities, gradients of every weight, and the tokens that were fed."""
    before = models.ledger.student_forward, models.ledger.teacher_forward
    scores = models.scores(views, batch)
    logps = {name: each.logp for name, each in scores.items()}
    factor = torch.linspace(0.5, 1.5, batch.own.numel(), dtype=torch.float64).view(batch.own.shape)
    weights = list(models.policy.model.parameters())
    live = [(logp * factor).sum() for logp in logps.values() if logp.requires_grad]
    gradients = torch.autograd.grad(sum(live), weights) if live else []
    fed = models.ledger.student_forward - before[0], models.ledger.teacher_forward - before[1]
    return logps, gradients, fed


def both_ways(models: Models, views, batch):
    """With and without packing the numbers agree; returns what was fed each way."""
    models.pack = True
    one, gradients, fed = scored(models, views, batch)
    models.pack = False
    two, expected, more = scored(models, views, batch)
    for name in views:
        assert torch.allclose(one[name], two[name], rtol=1e-10, atol=1e-12)
        assert one[name].requires_grad == two[name].requires_grad == views[name].grad
        assert one[name].abs().sum() > 0
    for g, e in zip(gradients, expected, strict=True):
        assert torch.allclose(g, e, rtol=1e-9, atol=1e-11)
    return fed, more


LONG = [(7 * i) % 200 + 5 for i in range(40)]
ANSWERS = [[7, 8, 9, 4], [11], [12, 13, 4], [7, 8, 5]]


def test_a_group_reads_its_prompt_once(qwen):
    batch = rows_of_one_prompt(LONG, ANSWERS)
    own = sum(map(len, ANSWERS))
    fed, more = both_ways(Models(qwen), {"policy": plain(batch)}, batch)
    assert fed == (40 + own, 0) and more == (4 * 40 + own, 0)


def test_a_short_prompt_is_read_again_but_never_padding(qwen):
    batch = rows_of_one_prompt(LONG[:5], ANSWERS)
    models = Models(qwen)
    assert models._packed(plain(batch)).ids.shape == (1, 4 * 5 + 11)
    fed, more = both_ways(models, {"policy": plain(batch)}, batch)
    assert fed == more == (4 * 5 + 11, 0)


def test_nothing_is_packed_where_nothing_is_saved(qwen):
    models, batch = Models(qwen), rows_of_one_prompt(LONG[:5], [[7, 8], [9, 4], [5, 6]])
    view = plain(batch)
    assert models._packed(view) is view
    one = rows_of_one_prompt(LONG, [[7, 8]])
    assert models._packed(plain(one)).document is None


def test_views_of_one_role_share_their_prefixes(qwen):
    """Two readings of the policy without gradient: one pass, each prefix once."""
    batch = rows_of_one_prompt(LONG, ANSWERS)
    other = rows_of_one_prompt(LONG, [[word + 40 for word in each] for each in ANSWERS])
    views = {"one": plain(batch, grad=False), "two": plain(other, grad=False)}
    fed, more = both_ways(Models(qwen), views, batch)
    assert fed == (0, 40 + 2 * 11) and more == (0, 8 * 40 + 22)


@pytest.mark.parametrize("told", [2, 60])
def test_a_live_teacher_is_read_along_only_where_that_costs_less(qwen, told):
    """P tokens shared, s + t after them: together 3(P + s + t), apart 3(P + s) + P + t."""
    models, student = Models(qwen), rows_of_one_prompt(LONG, [[7, 8, 9, 4], [11, 4]])
    note = [(11 * i) % 200 + 6 for i in range(told)]
    longer = rows_of_one_prompt([*LONG, *note], [[7, 8, 9, 4], [11, 4]])
    moved = plain(longer, grad=False).at
    teacher = replace(plain(longer, grad=False), at=moved[:, told:])
    views = {"policy": plain(student), "teacher": teacher}
    fed, more = both_ways(models, views, student)
    assert more == (80 + 6, 80 + 2 * told + 6)
    # A note of two tokens is too short to be shared by the teacher's rows.
    expected = {2: (40 + 6 + 2 * 2 + 6, 0), 60: (40 + 6, 40 + 60 + 6)}
    assert fed == expected[told]


def test_views_that_are_already_packed_are_read_as_they_are(qwen):
    batch, models = rows_of_one_prompt(LONG, ANSWERS), Models(qwen)
    views = {"one": plain(batch, grad=False), "two": packed(plain(batch, grad=False))}
    found = models.scores(views, batch)
    assert torch.allclose(found["one"].logp, found["two"].logp, rtol=1e-10)
    assert models.ledger.teacher_forward == 40 + 11 + 4 * 40 + 11


def test_other_weights_are_read_apart(qwen):
    batch = rows_of_one_prompt(LONG, ANSWERS)
    models = Models(qwen)
    views = {"policy": plain(batch), "teacher": plain(batch, "initial")}
    fed, _ = both_ways(models, views, batch)
    assert fed == (40 + 11, 40 + 11)


def test_scores_come_in_the_order_of_the_views_and_without_gradient_where_it_is_off(qwen):
    batch, models = rows_of_one_prompt(LONG, ANSWERS), Models(qwen)
    views = {"b": plain(batch), "a": plain(batch, "initial"), "c": plain(batch, grad=False)}
    assert list(models.scores(views, batch)) == ["b", "a", "c"]
    with torch.no_grad():
        models.ledger.student_forward = 0
        assert not models.score(views["b"], batch).logp.requires_grad
    assert models.ledger.student_forward == 0
    assert models.score(views["b"], batch, 2.0).temperature == 2.0


def test_the_verdict_is_shared_by_roles_of_one_architecture(qwen, monkeypatch):
    tried = []
    monkeypatch.setattr(model, "obstacle", lambda lm: tried.append(lm))
    models = Models(qwen)
    for role in ("policy", "initial", "ema"):
        assert models[role].packs
    assert tried == [qwen]
