"""Models that one of two processes has, dealt out to both; and drawing from layers that are spread."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from architectures import CAUSAL, NoWords, build
from autodidact import parallel
from autodidact.adapter import adapt
from autodidact.head import whole
from autodidact.law import Law
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.rollouts.sample import complete
from autodidact.skeleton import skeletons, taken
from test_parallel import joined
from toys import random_qwen

KINDS = ("untied", "tied", "adapter", "bloom")
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [5, 6], [13]]
"""The first three are those of one rank."""


def model_of(kind: str, tokenizer) -> LM:
    if kind == "bloom":  # tied, with biases, and its reading of columns is an obstacle to packing
        return LM(build("bloom", CAUSAL["bloom"]).eval(), NoWords(), kind)
    lm = random_qwen(tokenizer, tie_word_embeddings=kind == "tied")
    if kind == "adapter":
        lm.model.requires_grad_(False)
        lm.model = adapt(lm.model, 4, 8, 0).eval()
    return lm


def roles_of(kind: str, tokenizer) -> Models:
    models = Models(model_of(kind, tokenizer))
    assert models["initial"] and models["ema"]
    return models


def drawn(models: Models, prompts) -> list[list[int]]:
    if not prompts:
        return []
    found = complete(models, prompts, 2, 12, Law(), 0)
    return [each.ids for group in found for each in group]


def look(kind: str, rank: int, tokenizer) -> dict[str, object]:
    """What is wrong with the models of a kind, of which the second rank has no number at first."""
    expected = roles_of(kind, tokenizer)
    with parallel.alone():
        wanted = drawn(expected, PROMPTS)
    own = []

    def first():
        own.append(roles_of(kind, tokenizer))
        return skeletons(own[0].roles())

    roles = parallel.first(first)
    models = own[0] if own else Models(roles["policy"], roles=roles)
    empty = [p.is_meta for lm in models.roles().values() for p in lm.model.parameters()]
    models.shard("layers", "cpu")
    wrong, spread = [], 0
    for role, lm in expected.roles().items():
        theirs = dict(models[role].model.named_parameters())
        for name, value in lm.model.named_parameters():
            spread += hasattr(theirs[name], "full_tensor")
            if not torch.equal(whole(theirs[name]).detach(), value):
                wrong.append(f"{role}: {name}")
            if theirs[name].requires_grad != value.requires_grad:
                wrong.append(f"{role}: {name} requires a gradient or not")
        theirs = dict(models[role].model.named_buffers())
        wrong += [name for name, v in lm.model.named_buffers() if not torch.equal(theirs[name], v)]
    at_rest: list[bool] = []
    trunk = models.policy.base.base_model
    hook = trunk.register_forward_pre_hook(
        lambda module, given: at_rest.extend(hasattr(p, "full_tensor") for p in inner(module))
    )
    mine = PROMPTS[:3] if rank == 0 else PROMPTS[3:]
    with models.opened():
        found = drawn(models, mine)
    hook.remove()
    try:
        with models.opened():
            if rank == 1:
                raise ValueError("this rank cannot draw")
            again = drawn(models, mine)
    except ValueError:
        again = found
    total = float(parallel.total(torch.ones(())))
    parallel.before_totals(None)
    return {
        "empty": all(empty) if rank == 1 else not any(empty),
        "wrong": wrong,
        "spread": spread,
        "drawn": found == (wanted[:6] if rank == 0 else wanted[6:]),
        "layers at rest": all(at_rest) and len(at_rest),
        "obstacle": models.policy.packs == expected.policy.packs,
        "again": again == found,
        "total": total,
    }


def inner(trunk) -> list[torch.Tensor]:
    from autodidact.trunk import layers

    return list(layers(trunk).parameters())


def two(rank: int, place: str) -> None:
    joined(rank, place)
    tokenizer = load("tiny").tokenizer
    found = {kind: look(kind, rank, tokenizer) for kind in KINDS}
    Path(place, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    place = tmp_path_factory.mktemp("dealt")
    mp.spawn(two, (str(place),), nprocs=2)
    return [json.loads((place / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_have_what_one_has_loaded(ranks, kind):
    """Numbers, ties, buffers and who is trained; and they draw what one draws, in unequal shares."""
    for found in (rank[kind] for rank in ranks):
        assert found["empty"] and found["wrong"] == [] and found["spread"] > 10
        assert found["drawn"] and found["obstacle"]
        assert found["layers at rest"] > 10, "no layer is whole before it is read"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_that_fails_lets_the_others_end(ranks, kind):
    assert [rank[kind]["again"] for rank in ranks] == [True, True]
    assert [rank[kind]["total"] for rank in ranks] == [2.0, 2.0]


def test_a_skeleton_has_no_numbers_and_shares_what_is_shared(qwen):
    models = Models(qwen)
    roles = {"policy": qwen, "initial": models["initial"], "same": qwen}
    found = skeletons(roles)
    assert found["same"].model is found["policy"].model is not found["initial"].model
    assert all(p.is_meta for lm in found.values() for p in lm.model.parameters())
    assert not any(p.is_meta for p in qwen.model.parameters()), "the model itself stays whole"


def test_what_is_taken_is_all_of_it_and_ties_stay(tokenizer):
    model = random_qwen(tokenizer, tie_word_embeddings=True).model
    values = {name: value.clone() for name, value in model.named_parameters()}
    found = taken(model)
    assert found.keys() == values.keys()
    assert all(torch.equal(found[name], value) for name, value in values.items())
    assert all(p.is_meta for p in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
