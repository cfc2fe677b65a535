"""A server draws for two processes that have a share of the weights each."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from autodidact import parallel
from autodidact.adapter import adapt
from autodidact.engine import Outside
from autodidact.engines.actors import Actors, packed
from autodidact.engines.local import Local
from autodidact.engines.server import Server
from autodidact.law import Law
from autodidact.model import load
from autodidact.models import Models
from test_parallel import joined
from test_server import ASKED, SEED, Fake
from toys import perturb, random_qwen

CASES = [("all", 0), ("layers", 0), ("layers", 4)]
"""What is gathered to draw, and the rank of an adapter."""


def policy_of(tokenizer, lora: int):
    lm = random_qwen(tokenizer)
    if lora:
        lm.model.requires_grad_(False)
        lm.model = adapt(lm.model, lora, 2 * lora, 0).eval()
    perturb(lm, 0.2)  # an adapter that has learned something
    return lm


def update(lm) -> None:
    """As a training does, whose optimizer leaves no trace at the weights."""
    trained = [p for p in lm.model.parameters() if p.requires_grad]
    for weight in trained:
        weight.grad = torch.ones_like(weight)
    torch.optim.AdamW(trained, lr=0.1, fused=True).step()
    torch.autograd.graph.increment_version(trained)


def two(rank: int, place: str, url: str, gather: str, lora: int) -> None:
    joined(rank, place)
    models = Models(policy_of(load("tiny").tokenizer, lora))
    models.engine = Server(url, update="vllm", pause=0.01)
    models.shard(gather)
    mine = ASKED[:4] if rank == 0 else ASKED[4:]
    found = []
    for opening in range(3):
        if opening == 2:
            update(models.policy)
        with models.opened():
            for half in (mine[:2], mine[2:]) if rank == 0 else (mine,):
                found.append([each.ids for each in _draw(models, half)])
    with models.opened():
        sent = len(packed(models.policy))
    parallel.before_totals(None)
    Path(place, f"{rank}.json").write_text(json.dumps({"drawn": found, "sent": sent}))
    torch.distributed.destroy_process_group()


def _draw(models: Models, requests):
    return models.engine.draw(models.policy, requests, Law(), SEED).completions


@pytest.mark.slow
@pytest.mark.parametrize(("gather", "lora"), CASES)
def test_the_first_sends_the_weights_when_they_change_and_all_draw(
    gather, lora, tokenizer, tmp_path
):
    fake = Fake(random_qwen(tokenizer, seed=1), ASKED, Law())
    thread = threading.Thread(target=fake.serve_forever, daemon=True)
    thread.start()
    try:
        mp.spawn(two, (str(tmp_path), fake.url, gather, lora), nprocs=2)
    finally:
        fake.shutdown()
        fake.server_close()
        thread.join()
    lm = policy_of(tokenizer, lora)
    wanted = [each.ids for each in Local().draw(lm, ASKED, Law(), SEED).completions]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["drawn"][:4] == [wanted[:2], wanted[2:4]] * 2
    assert second["drawn"][:2] == [wanted[4:]] * 2
    update(lm)
    later = [each.ids for each in Local().draw(lm, ASKED, Law(), SEED).completions]
    assert [first["drawn"][4:], second["drawn"][2:]] == [[later[:2], later[2:4]], [later[4:]]]
    assert later != wanted
    assert first["sent"] == second["sent"] == len(packed(lm)), "all of it, to actors of each"
    assert fake.paths().count("/collective_rpc") == 2, "at the start and after the update"


def test_engines_that_have_weights_of_their_own_say_so():
    assert isinstance(Server("http://127.0.0.1:1"), Outside) and isinstance(Actors(), Outside)
    assert not isinstance(Local(), Outside)
