"""How many bytes a process of a run holds: on paper, from the shape of a model and a plan.

For packed views and the attention `sdpa`; letters as in `shapes`. All results are bytes of one
process. Left out: what the allocator loses in pieces, the CUDA context, buffers of nccl, workspace
inside kernels, shared prefixes, networks beside the policy, and all that grows with neither weights
nor tokens.
"""

from __future__ import annotations

from autodidact.lab.shapes import BASE, OUTER, Plan, Shape, numbers, tensors
from autodidact.parallel import BUCKET
from autodidact.sweep import CACHED, CHUNK, ROWS

ELEMENT = 7
"""Buffers of the element-wise work on a few rows of logits, as counted where it is not compiled."""


def resting(shape: Shape, plan: Plan) -> dict[str, int]:
    """What is held from step to step: weights, moments of AdamW, and the teacher's own weights.

    An adapter is in float32, and so are both moments of each trained weight.
    """
    base, adapter = numbers(shape, plan, *BASE), numbers(shape, plan, "adapter")
    trained = adapter if plan.lora else base
    return {
        "weights": plan.stored * base + 4 * adapter,
        "moments": 8 * trained,
        "teacher": plan.frozen * base,
    }


def gradients(shape: Shape, plan: Plan) -> int:
    """Those of the trained weights, from the first piece of a batch to its update."""
    return 4 * numbers(shape, plan, *(("adapter",) if plan.lora else BASE))


def reading(shape: Shape, plan: Plan) -> int:
    """Weights of policy and teacher, whole: what the memory of the first machine must take where
    they are spread, see `skeleton`, and each GPU where they are not."""
    held = resting(shape, Plan(lora=plan.lora, half=plan.half, teacher=plan.teacher))
    return held["weights"] + held["teacher"]


def loading(shape: Shape, plan: Plan) -> int:
    """Weights of policy and teacher on a rank, dealt out tensor by tensor where they are spread:
    the largest tensor is there whole, and this rank's share of it a second time."""
    if not plan.spread:
        return reading(shape, plan)
    held, width = resting(shape, plan), max(plan.stored, plan.frozen)
    largest = max(rows * columns for _, rows, columns in tensors(shape, plan.lora))
    return held["weights"] + held["teacher"] + width * (largest + -(-largest // plan.ranks))


# ------------------------------------------------------------------ a piece of a batch


def layer_activations(shape: Shape, plan: Plan) -> int:
    """What one layer keeps of one token for the backward pass.

    Counted off what autograd saves, in the order of a layer: two norms, queries, keys, values,
    attention, the gated network, the branches of an adapter, and a few numbers for each norm and
    head. Under autocast every product of a trained weight has a copy of its input in half
    precision; spread adapters are in half precision themselves and share theirs.
    """
    d, q, k, f, r = shape.hidden, shape.query, shape.key, shape.inner, plan.lora
    inside = q + k if shape.norms else 0
    few = 4 * (2 + shape.heads + (shape.heads + shape.kv_heads) * shape.norms)
    if not plan.half and plan.lora:
        return 4 * (4 * d + inside + 3 * q + 2 * k + 4 * f + 7 * r) + few
    if not plan.half:
        return 4 * (6 * d + 2 * inside + 3 * q + 2 * k + 4 * f) + few
    if plan.lora:
        states = 12 * d if plan.spread else 18 * d
        return states + 4 * inside + 6 * q + 4 * k + 8 * f + 14 * r + few
    return 26 * d + 6 * inside + 6 * q + 4 * k + 8 * f + few


def activations(shape: Shape, plan: Plan) -> int:
    """What a pass with gradient keeps of its tokens, until the backward pass has gone through.

    With `recompute` that is the state that each layer is given, as embeddings are stored. The
    final norm is kept in both.
    """
    each = plan.stored * shape.hidden if plan.recompute else layer_activations(shape, plan)
    last = (4 + plan.stored * (not plan.lora)) * shape.hidden
    return plan.tokens * (shape.layers * each + last)


def casts(shape: Shape, plan: Plan) -> int:
    """Copies of weights in half precision under autocast: of float32 weights that are trained.

    They live as long as the activations, with `recompute` to the end of the forward pass. Frozen
    weights are copied at each use; spread ones are gathered in half precision.
    """
    if not plan.half or plan.spread:
        return 0
    own = numbers(shape, plan, "adapter") if plan.lora else shape.layers * shape.linear
    return 2 * own


def head(shape: Shape, plan: Plan) -> dict[str, int]:
    """The walk over the vocabulary: the head whole on each rank, its gradient, logits and states.

    The head is a tensor of its own where it is spread (one for each reader) or in another
    precision than the stored one. Its gradient is summed in float32. Of logits there are one
    buffer, or two with a teacher; never all of them.
    """
    readers = 1 if plan.teacher == "none" else 2
    half = plan.half and (plan.gpu or plan.lora > 0)
    width = 2 if half else 4
    own = plan.spread or width != plan.stored
    row = 4 * shape.words
    chunk = max(1, CHUNK // row) if plan.gpu else max(shape.hidden // 4, 128)
    logits = readers * min(chunk, plan.asked) * row
    logits += ELEMENT * min(ROWS if plan.gpu else max(1, CACHED // row), chunk) * row
    if half and plan.gpu:  # the gradient in the logits, before it is multiplied
        logits += min(chunk, plan.asked) * row // 2
    return {
        "head": readers * width * shape.vocabulary if own else 0,
        "head's gradient": 0 if plan.lora else 4 * shape.vocabulary,
        "logits": logits,
        "states": plan.asked * shape.hidden * (readers * plan.stored + 4),
    }


def working(shape: Shape, plan: Plan) -> int:
    """What is alive for a moment inside a layer, forward or backward: about F + 2 D numbers."""
    return 4 * plan.tokens * (shape.inner + 2 * shape.hidden)


def gathered(shape: Shape, plan: Plan, backward: bool) -> int:
    """Weights that are whole for a moment where they are spread.

    Those of the embedding as it is stored, of the layer that is read and of the one to come as
    they are computed with; in the backward pass also the gradients of the layer, as they are
    computed and, in float32, as they are summed.
    """
    if not plan.spread:
        return 0
    layer = shape.linear + sum(shape.vectors)
    adapter = sum(plan.lora * (rows + columns) for rows, columns in shape.matrices)
    held = plan.stored * (shape.vocabulary + shape.hidden) + plan.computed * 2 * (layer + adapter)
    trained = adapter if plan.lora else layer
    return held + (plan.computed + 4) * trained * backward


def learning(shape: Shape, plan: Plan) -> dict[str, int]:
    """The largest moments of a step, from the second piece of a batch on; the peak is their most.

    forward: at the end of the pass over the layers, or while a head that is spread is gathered,
    which takes three copies. vocabulary: in the walk over the vocabulary. backward: at the head,
    then in the layers, whose activations are there again, then at the embedding. summing: of
    gradients that every rank has all of, in messages.
    """
    held = sum(resting(shape, plan).values()) + gradients(shape, plan)
    kept, copies, top = activations(shape, plan), casts(shape, plan), head(shape, plan)
    moment, slope = working(shape, plan), top["head's gradient"]
    lasting = held + kept + (0 if plan.recompute else copies)
    # The scores of a piece hold on to the head and the states until its backward pass has ended.
    scores = top["head"] + top["states"]
    again = plan.tokens * layer_activations(shape, plan) if plan.recompute else 0
    waiting = slope if shape.tied else 0  # until the embedding's gradient is there as well
    both = slope * (2 if plan.spread else 1)
    third = 3 * plan.stored * shape.vocabulary if plan.spread else 0
    found = {
        "forward": held
        + kept
        + max(copies + moment + gathered(shape, plan, False), third + top["states"]),
        "vocabulary": lasting + sum(top.values()),
        "backward": max(
            lasting + scores + both,
            lasting + scores + again + moment + waiting + gathered(shape, plan, True),
            held + scores + waiting + both + gathered(shape, plan, False),
        ),
    }
    if plan.ranks > 1 and not plan.spread:
        cut = tensors(shape, plan.lora)
        trained = [r * c for kind, r, c in cut if (kind == "adapter") == bool(plan.lora)]
        found["summing"] = held + 8 * min(sum(trained), max(BUCKET, *trained))
    return found


def drawing(shape: Shape, plan: Plan) -> dict[str, int]:
    """What a rank holds while it draws by the local engine.

    Where they are spread, embeddings and heads are whole on every rank for as long as that takes,
    those of a teacher's own copy as well, and the policy's layers: all of them, or the one that is
    read and the one to come. Weights that are not spread are copied in half precision for every
    token under autocast. Keys and values have room for a prompt and two completions in a row, see
    `engines.lean`; where layers are gathered they take what is there, about half of that.
    """
    single, whole = Plan(lora=plan.lora), casts(shape, plan)
    if plan.spread:
        inner, outer = numbers(shape, single, "layer"), numbers(shape, single, *OUTER)
        whole = plan.computed * (inner + numbers(shape, single, "adapter"))
        if plan.gather == "layers":
            whole = 2 * whole // shape.layers
        whole += (plan.stored + plan.frozen) * outer
    if plan.gpu and plan.computed < plan.stored:
        whole += plan.computed * shape.vocabulary  # the head, once for a draw
    columns = plan.prompt + 2 * plan.length
    return {
        "at rest": sum(resting(shape, plan).values()),
        "whole weights": whole,
        "keys and values": 2 * shape.layers * shape.key * plan.rows * columns * plan.computed,
    }


def peaks(shape: Shape, plan: Plan) -> dict[str, int]:
    """The most that a rank holds: while loading, drawing and learning."""
    return {
        "loading": loading(shape, plan),
        "drawing": sum(drawing(shape, plan).values()),
        "learning": max(learning(shape, plan).values()),
    }
