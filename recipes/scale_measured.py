"""What a step really holds and multiplies, beside what `autodidact.lab` says on paper.

`python -m recipes.scale_measured` makes random models of Qwen3's kind on a CPU, learns with each
from two pieces of a batch, in one process or in two over gloo, and prints the ratios of predicted
to measured numbers. Each case is in processes of its own, one after the other. Takes some ten
minutes and at most 4 GiB. Nothing here says anything about a GPU.
"""

from __future__ import annotations

import json
import os
import resource
import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.multiprocessing as mp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from autodidact import parallel
from autodidact.adapter import adapt
from autodidact.batch import Batch
from autodidact.lab import budget, work
from autodidact.lab.shapes import Plan, Shape
from autodidact.learn import gradients, learn
from autodidact.methods.sft import sft
from autodidact.model import LM, load
from autodidact.models import Models
from autodidact.problem import Problem, Task
from autodidact.run import Run
from autodidact.skeleton import skeletons

ROWS, PROMPT, LENGTH = 4, 16, 112
"""Of one piece of a batch; rows are up to 7 tokens shorter, so that they are packed."""


@dataclass(frozen=True)
class Case:
    """A model and a plan; its tokens are those of `rows_of`."""

    shape: Shape
    plan: Plan

    def planned(self) -> Plan:
        piece = rows_of(self.shape.words)
        tokens, asked = int(piece.real[:ROWS].sum()), int(piece.own[:ROWS].sum())
        return replace(self.plan, tokens=tokens, asked=asked, gpu=False)


SMALL = Shape(4, 256, 768, 4, 2, 64, 8192, False)
MIDDLE = Shape(8, 512, 1536, 8, 4, 64, 16_384, True)
LARGE = Shape(12, 1024, 3072, 16, 8, 64, 16_384, True)
SPREAD = {"ranks": 2, "spread": True}
CASES = [
    *(
        Case(SMALL, Plan(lora=lora, half=half, recompute=recompute))
        for lora in (0, 16)
        for half in (False, True)
        for recompute in (False, True)
    ),
    Case(MIDDLE, Plan(half=False)),
    Case(MIDDLE, Plan(half=True, recompute=True)),
    Case(MIDDLE, Plan(lora=16, half=True)),
    Case(LARGE, Plan(half=False, recompute=True)),
    Case(SMALL, Plan(ranks=2, half=False)),
    *(
        Case(SMALL, Plan(lora=lora, half=half, recompute=recompute, **SPREAD))
        for lora in (0, 16)
        for half, recompute in ((False, False), (False, True), (True, True))
    ),
    Case(MIDDLE, Plan(half=True, recompute=True, **SPREAD)),
]


def made(shape: Shape, plan: Plan) -> LM:
    """A random model of that shape, as `model.load` would load it; only its device is known."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=shape.words, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        max_position_embeddings=1024, tie_word_embeddings=shape.tied,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    if plan.stored == 2:
        model = model.to(torch.bfloat16)
    model.requires_grad_(not plan.lora).eval()
    lm = LM(model, load("tiny").tokenizer, autocast=plan.half, recompute=plan.recompute)
    if plan.lora:
        lm.model = adapt(model, plan.lora, 2 * plan.lora, 0).eval()
    return lm


def rows_of(words: int, pieces: int = 2) -> Batch:
    """Random rows, equal pieces but for a few tokens."""
    count, width = pieces * ROWS, PROMPT + LENGTH
    ids = torch.randint(5, words, (count, width), generator=torch.Generator().manual_seed(0))
    size = width - (3 * torch.arange(count) % 8)[:, None]
    columns = torch.arange(width)
    real = columns < size
    problems = tuple(Problem(str(i)) for i in range(count))
    task = Task("rows", problems, [], lambda problem: [], lambda problem: [])
    return Batch(ids, real, real & (columns >= PROMPT), torch.arange(count), problems, task)


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made while this is open and that still live.

    Workspace inside an operation is not seen; that of the process is, see `resource`. Counts also
    what the ranks send each other of weights and gradients.

    Args:
        known: tensors that were there before, to be counted too.
    """

    def __init__(self, known: list[torch.Tensor]):
        super().__init__()
        self.found: dict[int, Any] = {}
        self.most = self.peak = self.sent = 0
        for each in known:
            self._note(each)

    def _note(self, value: torch.Tensor) -> None:
        if value.is_meta:
            return
        # A sharded tensor has a storage of its whole size, in which there is nothing.
        storage = getattr(value, "_local_tensor", value).untyped_storage()
        known = self.found.get(storage._cdata)
        if known is None or known() is None:
            self.found[storage._cdata] = weakref.ref(storage)
            self.most += storage.nbytes()

    def now(self) -> int:
        """Bytes that live now."""
        total = 0
        for key, reference in list(self.found.items()):
            storage = reference()
            if storage is None:
                del self.found[key]
            else:
                total += storage.nbytes()
        return total

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.namespace in ("c10d", "_c10d_functional"):
            self.sent += _together(str(function), args, result)
        torch.utils._pytree.tree_map_only(torch.Tensor, self._note, result)
        # `most` is what would live had nothing been freed since it was counted. Spread weights are
        # gathered into memory that is given back and taken again without a tensor being made.
        if self.most > self.peak or function.namespace == "fsdp":
            self.most = self.now()
            self.peak = max(self.peak, self.most)
        return result


def _together(name: str, args: Any, result: Any) -> int:
    """Bytes of all ranks together that a collective operation deals with; 0 for any other."""
    if name == "c10d._allgather_base_.default":
        return args[0].nbytes
    if name == "_c10d_functional.all_gather_into_tensor.default":
        return result.nbytes
    if name == "c10d._reduce_scatter_base_.default":
        return args[1].nbytes
    if name == "_c10d_functional.reduce_scatter_tensor.default":
        return args[0].nbytes
    if name == "c10d.allreduce_.default":
        return 2 * sum(each.nbytes for each in args[0])
    return 0


def local(value: torch.Tensor) -> torch.Tensor:
    """The share of a tensor that lies on this rank."""
    return value.to_local() if hasattr(value, "to_local") else value


def dealt(case: Case) -> tuple[Models, int]:
    """A model and its teacher, dealt out to the ranks, and the peak on this one while that lasts;
    what the first has in its own memory to begin with is not counted."""
    own: list[Models] = []

    def first() -> dict[str, LM]:
        own.append(Models(made(case.shape, case.plan)))
        if case.plan.frozen:
            assert own[0][case.plan.teacher]
        return skeletons(own[0].roles())

    roles = parallel.first(first)
    models = own[0] if own else Models(roles["policy"], roles=roles)
    # Without the trial at the end, which reads rows.
    with Held([]) as memory, mock.patch.object(LM, "packs", True):
        models.shard(case.plan.gather, "cpu")
    return models, memory.peak


def held(case: Case) -> dict[str, int]:
    """Bytes that this process holds, at the peaks of loading and of a step, at rest and while it
    draws, and receives."""
    models, loading = dealt(case) if case.plan.spread else (Models(made(case.shape, case.plan)), 0)
    lm = models.policy
    assert lm.packs  # tried out once, before anything is counted
    weights = list(dict.fromkeys(lm.model.parameters()))
    trained = [p for p in weights if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    slopes: list[int] = []
    optimizer.register_step_pre_hook(
        lambda *_: slopes.append(sum(local(p.grad).nbytes for p in trained if p.grad is not None))
    )
    batch, run = rows_of(case.shape.words), Run(rows=2 * ROWS, micro_rows=ROWS)
    own = dict.fromkeys(p for each in models.roles().values() for p in each.model.parameters())
    with Held([local(each) for each in own]) as memory:
        learn(sft(), models, batch, optimizer, run)
        rest, memory.peak, memory.sent = memory.now(), 0, 0
        learn(sft(), models, batch, optimizer, run)
        peak, sent = memory.peak, memory.sent
        with models.opened():
            opened = memory.now()
    parallel.before_totals(None)
    moments = [m for state in optimizer.state.values() for m in state.values() if m.dim()]
    return {
        "loading": loading,
        "weights": sum(local(each).nbytes for each in weights),
        "moments": sum(local(each).nbytes for each in moments),
        "gradients": slopes[-1],
        "rest": rest,
        "opened": opened,
        "peak": peak,
        "received": sent * (case.plan.ranks - 1) // case.plan.ranks,
    }


def kept(case: Case) -> int:
    """Bytes that autograd keeps of a pass over one piece, weights of the model left out."""
    lm = made(case.shape, case.plan)
    models, piece = Models(lm), rows_of(case.shape.words, 1)
    [view] = sft().views(piece, models).values()
    fed = models._packed(view)
    own = {each.untyped_storage()._cdata for each in [*lm.model.parameters(), *lm.model.buffers()]}
    seen: dict[int, int] = {}

    def note(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        output = lm.read(fed, use_cache=False).last_hidden_state
    assert output.requires_grad
    return sum(seen.values())


def _product(shape: Any, one: Any, other: Any, *args: Any, **options: Any) -> int:
    return 2 * one[0] * one[1] * other[1]


def _attention(query: Any, key: Any, *args: Any, **options: Any) -> int:
    heads, count, size = query[-3:]
    return 4 * heads * count * key[-2] * size


def _attention_back(slope: Any, query: Any, key: Any, *args: Any, **options: Any) -> int:
    return _attention(query, key) * 5 // 2


def operations(case: Case) -> tuple[float, float]:
    """Operations of the gradient of one piece, predicted and counted; those that torch's counter
    does not know (attention on a CPU, products that are added in place) are told to it."""
    aten = torch.ops.aten
    known = {
        aten.addmm_: _product,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
    }
    models, piece, plan = (
        Models(made(case.shape, case.plan)),
        rows_of(case.shape.words, 1),
        case.plan,
    )
    assert models.policy.packs
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        gradients(sft(), models, piece)
    sizes, asked = piece.real.sum(1).tolist(), int(piece.own.sum())
    tokens = sum(sizes)
    attended = sum(size**2 for size in sizes) / tokens
    trunk = work.training(case.shape, plan, tokens, attended)
    return trunk + work.vocabulary(case.shape, plan, asked), counter.get_total_flops()


def _one(rank: int, place: str, case: Case) -> None:
    torch.set_num_threads(1)
    if case.plan.ranks > 1:
        torch.distributed.init_process_group(
            "gloo", f"file://{place}/meet", rank=rank, world_size=case.plan.ranks
        )
    load("tiny")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[str, float] = dict(held(case))
    found["process"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    if case.plan.ranks == 1:
        found["kept"] = kept(case)
        found["predicted"], found["operations"] = operations(case)
    Path(place, f"{rank}.json").write_text(json.dumps(found))
    if case.plan.ranks > 1:
        torch.distributed.destroy_process_group()


def measured(case: Case) -> dict[str, float]:
    """What the first process of a case measures, in processes that are made for it."""
    with tempfile.TemporaryDirectory() as place:
        mp.spawn(_one, (place, case), nprocs=case.plan.ranks)
        return json.loads(Path(place, "0.json").read_text())


def named(case: Case) -> str:
    plan = case.plan
    words = [f"{case.shape.weights / 1e6:.0f}M", f"LoRA {plan.lora}" if plan.lora else "dense"]
    words += ["bf16" if plan.half else "fp32"]
    words += ["recompute"] * plan.recompute
    words += [("fsdp" if plan.spread else "ddp") + f" {plan.ranks}"] * (plan.ranks > 1)
    return ", ".join(words)


def main() -> None:
    print("| case | at rest | kept | peak, MB | peak | process, MB | operations | received |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        found, plan = measured(case), case.planned()
        rest = sum(budget.resting(case.shape, plan).values())
        learning = budget.learning(case.shape, plan)
        cells = [named(case), f"{rest / found['rest']:.4f}"]
        lasting = budget.activations(case.shape, plan)
        lasting += 0 if plan.recompute else budget.casts(case.shape, plan)
        alone = "kept" in found
        cells += [f"{lasting / found['kept']:.3f}" if alone else ""]
        cells += [f"{found['peak'] / 1e6:.0f}", f"{max(learning.values()) / found['peak']:.3f}"]
        cells += [f"{found['process'] / 1e6:.0f}"]
        cells += [f"{found['predicted'] / found['operations']:.3f}" if alone else ""]
        sends = work.gathering(case.shape, plan, 2, 0)
        received = sends.get("learning", sends.get("summing", 0.0))
        cells += [f"{received / found['received']:.3f}" if received else ""]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
