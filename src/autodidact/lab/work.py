"""How much a step multiplies, reads and sends: on paper, beside `budget`, which counts bytes held.

Operations are those of `torch.utils.flop_counter`: two for each product of two numbers, matrices
and attention only. Bytes sent are those that one rank receives. Seconds follow from rates that are
assumed, and say nothing about what a machine does.
"""

from __future__ import annotations

from dataclasses import dataclass

from autodidact.lab.shapes import BASE, OUTER, Plan, Shape, numbers


@dataclass(frozen=True)
class Machine:
    """Rates of one GPU, by its data sheet, and how much of them is assumed to be reached.

    Attributes:
        name, bytes: memory.
        operations: per second, half precision, dense. reading: bytes of memory per second.
        near, far: bytes per second that it receives from the GPUs of its machine, and of others.
        used: share of `operations`, and of `reading`, that is assumed.
        inside: GPUs of one machine.
    """

    name: str
    bytes: float
    operations: float
    reading: float
    near: float = 450e9
    far: float = 50e9
    used: float = 0.4
    inside: int = 8

    def receiving(self, ranks: int) -> float:
        """Bytes per second, were all links as slow as the slowest."""
        return self.near if ranks <= self.inside else self.far


H100 = Machine("80 GB (H100 SXM)", 80e9, 989e12, 3.35e12)
H200 = Machine("141 GB (H200 SXM)", 141e9, 989e12, 4.8e12)


def reading(shape: Shape, lora: int, tokens: int, attended: float) -> float:
    """Operations of a pass over tokens without gradient, head excepted.

    Args:
        attended: keys that a token is compared with, in the mean: all of its row as the counter
            counts, half of it where a kernel leaves out what comes later.
    """
    adapter = sum(lora * (rows + columns) for rows, columns in shape.matrices)
    matrices = 2 * (shape.linear + adapter)
    return tokens * shape.layers * (matrices + 4 * shape.query * attended)


def training(shape: Shape, plan: Plan, tokens: int, attended: float) -> float:
    """Operations of a pass over tokens and back, head excepted.

    Back goes one product for the input of each matrix and one for a matrix that is trained; for
    attention five for the two of the way there. Recomputing is the way there once more, but for
    the last product of each layer, which nothing needs.
    """
    adapter = sum(plan.lora * (rows + columns) for rows, columns in shape.matrices)
    weights = adapter if plan.lora else shape.linear
    back = 2 * (shape.linear + adapter + weights) + 10 * shape.query * attended
    found = reading(shape, plan.lora, tokens, attended) + tokens * shape.layers * back
    if plan.recompute:
        last = plan.lora * shape.hidden if plan.lora else shape.inner * shape.hidden
        found += reading(shape, plan.lora, tokens, attended) - 2 * tokens * shape.layers * last
    return found


def vocabulary(shape: Shape, plan: Plan, asked: int, linear: bool = True) -> float:
    """Operations of a walk over the vocabulary: logits of all readers, and two gradients.

    Args:
        linear: the loss is a sum of values with weights known beforehand; else a head that is
            trained is walked over twice.
    """
    readers = 1 if plan.teacher == "none" else 2
    again = 0 if linear or plan.lora else readers
    products = readers + again + (1 if plan.lora else 2)
    return 2.0 * asked * shape.vocabulary * products


def gathering(
    shape: Shape, plan: Plan, pieces: int, readings: int, tokens: int = 0
) -> dict[str, float]:
    """Bytes that a rank receives in a step, as `sharding` and `parallel` send them.

    learning: of each piece all weights twice (there and back), layers as they are computed with
    and others as they are stored, the head once, and the gradients in float32. teacher: weights
    and head once for each reading. drawing: the policy's layers, once or for each token, and all
    embeddings and heads once. summing: gradients of ddp, once for a step, both ways.

    Args:
        pieces: of a batch on a rank, which are made one after the other.
        readings: of the teacher in a step.
        tokens: that are drawn one after the other, where layers are gathered for each.
    """
    most = (plan.ranks - 1) / plan.ranks
    single = Plan(lora=plan.lora)
    inner, adapter = numbers(shape, single, "layer"), numbers(shape, single, "adapter")
    outer = numbers(shape, single, *OUTER)
    trained = adapter if plan.lora else inner + outer
    if not plan.spread:
        return {"summing": 2 * most * 4 * trained}
    layers = plan.computed * (inner + adapter)
    trunk = layers + plan.stored * (shape.vocabulary + shape.hidden)
    top = plan.stored * shape.vocabulary
    # The gradient of a tied head comes by itself, beside that of the embedding.
    slopes = 4 * (trained + (shape.vocabulary if shape.tied and not plan.lora else 0))
    draws = tokens if plan.gather == "layers" else 1
    return {
        "learning": most * pieces * (2 * trunk + top + slopes),
        "teacher": most * readings * (trunk + top) * (plan.teacher != "none"),
        "drawing": most * (draws * layers + (plan.stored + plan.frozen) * outer),
    }


def transfer(shape: Shape, lora: int, half: bool) -> int:
    """Bytes of the weights that are sent to an engine outside: float32, an adapter merged.

    Frozen weights that have no adapter (embedding, head, norms) go as they are stored.
    """
    base = numbers(shape, Plan(), *BASE)
    merged = shape.layers * shape.linear
    return 4 * merged + (base - merged) * (2 if lora and half else 4)


def writing(shape: Shape, plan: Plan, machine: Machine) -> float:
    """Seconds in which a rank writes its rows, if reading memory is all that takes time.

    Each token reads all layers and the head, and keys and values of half the completion. Under
    autocast layers in float32 are read, written and read again in half precision.
    """
    once = plan.computed * (numbers(shape, Plan(), "layer") + shape.vocabulary)
    if plan.half and not plan.spread and not plan.lora:
        once += (4 + 2) * shape.layers * shape.linear
    mean = plan.prompt + plan.length / 2
    cache = 2 * shape.layers * shape.key * plan.rows * mean * plan.computed
    return plan.length * (once + cache) / (machine.reading * machine.used)
