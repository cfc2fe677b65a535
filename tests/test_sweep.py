"""The sweep over the vocabulary against plain autograd on whole logits: values, gradients, work, memory."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from autodidact import head as heads
from autodidact import sweep
from autodidact.divergence import Divergence
from autodidact.head import Head
from autodidact.scores import Scores
from toys import random_logits

ASKED = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
N, D, V = int(ASKED.sum()), 6, 11
TARGETS = torch.arange(N) % V
WEIGHT = torch.linspace(0.5, 1.5, N).double()
NAMES = ("logp", "entropy", "rank", "self_certainty")


def sides(softcap: float | None = None, frozen: bool = False, weight: torch.Tensor | None = None):
    """Student and teacher over 11 words, with biased heads; every tensor wants a gradient."""
    head = Head(random_logits(V, D, seed=1), random_logits(V, seed=2), 0.7, softcap)
    head = head.detach() if frozen else head
    other = Head(random_logits(V, D, seed=3), random_logits(V, seed=4), 1.0, softcap)
    student = Scores(random_logits(N, D), head, ASKED, TARGETS, 1.3, weight)
    return student, Scores(random_logits(N, D, seed=5), other, ASKED, TARGETS, 0.8)


def law(scores: Scores) -> torch.Tensor:
    head = scores.head
    logits = (scores.hidden @ head.weight.T + head.bias) * head.scale
    if head.softcap is not None:
        logits = head.softcap * (logits / head.softcap).tanh()
    return (logits / scores.temperature).log_softmax(-1)


def plainly(student: Scores, teacher: Scores) -> dict[str, torch.Tensor]:
    """Every quantity on whole logits, differentiated by autograd."""
    logp, logq = law(student), law(teacher).detach()
    chosen = logp[range(N), TARGETS]
    middle = (0.3 * logq.exp() + 0.7 * logp.exp()).log()
    jsd = 0.3 * (logq.exp() * (logq - middle)) + 0.7 * (logp.exp() * (logp - middle))
    return {
        "logp": chosen,
        "entropy": -(logp.exp() * logp).sum(-1),
        "rank": (logp > chosen[:, None]).sum(-1).double(),
        "self_certainty": -logp.mean(-1) - math.log(V),
        "forward": (logq.exp() * (logq - logp)).sum(-1),
        "clipped jsd": jsd.clamp(max=0.02).sum(-1),
    }


def swept(student: Scores, teacher: Scores) -> dict[str, torch.Tensor]:
    found = student.read(*NAMES)
    found["forward"] = student.divergence(teacher, Divergence())
    found["clipped jsd"] = student.divergence(teacher, Divergence("jsd", 0.3, clip=0.02))
    return {name: value[ASKED] for name, value in found.items()}


def leaves(student: Scores) -> list[torch.Tensor]:
    tensors = (student.hidden, student.head.weight, student.head.bias)
    return [each for each in tensors if each is not None and each.requires_grad]


@pytest.mark.parametrize("size", [(1, 1), (4, 2), (3, 3), (8, 8)])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_values_and_gradients_are_those_of_whole_logits(monkeypatch, size, softcap, frozen, weight):
    monkeypatch.setattr(sweep, "sizes", lambda count, head: size)
    monkeypatch.setattr(heads, "BLOCK", 4)
    student, teacher = sides(softcap, frozen, weight)
    found, expected = swept(student, teacher), plainly(student, teacher)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-14), name
        if name == "rank":
            grads = torch.autograd.grad(found[name].sum(), leaves(student), retain_graph=True)
            assert not any(each.any() for each in grads)
            continue
        ours = torch.autograd.grad((found[name] * WEIGHT).sum(), leaves(student), retain_graph=True)
        theirs = torch.autograd.grad((value * WEIGHT).sum(), leaves(student), retain_graph=True)
        for one, two in zip(ours, theirs, strict=True):
            assert torch.allclose(one, two, rtol=1e-10, atol=1e-14) and two.abs().max() > 0, name
    assert not any(note.requires_grad for note in student.notes.values())


def test_several_answers_of_one_sweep_share_their_gradient():
    student, _ = sides()
    given = torch.randn(4, N, generator=torch.Generator().manual_seed(3)).double()
    ours, theirs = student.read(*NAMES), plainly(student, sides()[1])
    totals = [
        sum((g * (found[name][ASKED] if found is ours else found[name])).sum() for g, name in
            zip(given, NAMES, strict=True))
        for found in (ours, theirs)
    ]  # fmt: skip
    one, two = (torch.autograd.grad(total, leaves(student)) for total in totals)
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "known", [WEIGHT, 3 * WEIGHT, -WEIGHT, torch.ones(N).double(), torch.zeros(N).double()]
)
@pytest.mark.parametrize("given", [WEIGHT, torch.zeros(N).double()])
def test_a_weight_that_is_announced_never_changes_a_gradient(known, given):
    student, teacher = sides(weight=known)
    value = student.divergence(teacher, Divergence("reverse"))[ASKED]
    plain, _ = sides()
    expected = plain.divergence(teacher, Divergence("reverse"))[ASKED]
    ours = torch.autograd.grad((value * given).sum(), leaves(student))
    theirs = torch.autograd.grad((expected * given).sum(), leaves(plain))
    for one, two in zip(ours, theirs, strict=True):
        assert torch.allclose(one, two, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("size", [(4, 2), (3, 3), (8, 8)])
def test_a_teacher_with_the_very_same_head_is_read_in_the_same_product(monkeypatch, size):
    monkeypatch.setattr(sweep, "sizes", lambda count, head: size)
    student, teacher = sides()
    teacher = replace(teacher, head=student.head)
    assert student.head.same_product(teacher.head.detach())
    assert not student.head.same_product(replace(student.head, bias=None))
    found, expected = swept(student, teacher), plainly(student, teacher)
    for name in ("forward", "clipped jsd"):
        assert torch.allclose(found[name], expected[name], rtol=1e-12, atol=1e-14)
        ours = torch.autograd.grad((found[name] * WEIGHT).sum(), leaves(student))
        theirs = torch.autograd.grad(
            (expected[name] * WEIGHT).sum(), leaves(student), retain_graph=True
        )
        for one, two in zip(ours, theirs, strict=True):
            assert torch.allclose(one, two, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_a_graph_that_is_kept_gives_the_same_gradient_twice(frozen, weight):
    student, teacher = sides(frozen=frozen, weight=weight)
    total = (student.divergence(teacher, Divergence("jsd"))[ASKED] * 2 * WEIGHT).sum()
    first = [g.clone() for g in torch.autograd.grad(total, leaves(student), retain_graph=True)]
    second = torch.autograd.grad(total, leaves(student))
    for one, two in zip(first, second, strict=True):
        assert torch.allclose(one, two, rtol=1e-12)


class Products(TorchDispatchMode):
    """How many numbers the matrix products multiply."""

    def __init__(self):
        super().__init__()
        self.multiplied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            one, two = args[-2:]
            self.multiplied += one.numel() * two.shape[1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("frozen", "weight", "products"), [(True, None, 3), (False, WEIGHT, 4), (False, None, 6)]
)
def test_the_products_over_the_head_are_counted(frozen, weight, products):
    """Student, teacher, hidden states, head; both laws again where the weights are not known."""
    student, teacher = sides(frozen=frozen, weight=weight)
    with Products() as counter:
        value = student.divergence(teacher, Divergence("jsd"))[ASKED]
        torch.autograd.grad((value * WEIGHT).sum(), leaves(student))
    assert counter.multiplied == products * N * D * V


@pytest.mark.parametrize(("name", "products"), [("nll", 3), ("logp", 4)])
def test_a_likelihood_whose_weights_are_known_is_walked_once(name, products):
    student, _ = sides(weight=WEIGHT)
    with Products() as counter:
        value = getattr(student, name)[ASKED]
        gradients = torch.autograd.grad((value * WEIGHT).sum(), leaves(student))
    assert counter.multiplied == products * N * D * V
    plain, teacher = sides()
    expected = plainly(plain, teacher)["logp"] * (-1 if name == "nll" else 1)
    assert torch.allclose(value, expected, rtol=1e-12)
    theirs = torch.autograd.grad((expected * WEIGHT).sum(), leaves(plain))
    for one, two in zip(gradients, theirs, strict=True):
        assert torch.allclose(one, two, rtol=1e-10, atol=1e-14)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        flat = found if isinstance(found, (tuple, list)) else (found,)
        self.size = max([self.size, *(x.numel() for x in flat if isinstance(x, torch.Tensor))])
        return found


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_no_tensor_of_all_tokens_times_all_words_is_ever_made(monkeypatch, weight):
    def largest(size):
        monkeypatch.setattr(sweep, "sizes", lambda count, head: size)
        with Largest() as seen:
            student, teacher = sides(weight=weight)
            found = swept(student, teacher)
            torch.autograd.grad(sum((x * WEIGHT).sum() for x in found.values()), leaves(student))
        return seen.size

    assert largest((2, 1)) == V * D < N * V
    assert largest((N, N)) == 2 * N * V, "the test sees two laws of all tokens"


def test_a_head_in_half_precision_is_summed_in_float32():
    """Rounding the logits, of size 100 and more, to bfloat16 would move them by up to 0.5."""
    weight = torch.randn(V, 300, generator=torch.Generator().manual_seed(0)) * 3
    hidden = torch.randn(N, 300, generator=torch.Generator().manual_seed(1)) * 3
    half = Head(weight.bfloat16())
    scores = Scores(hidden.bfloat16().requires_grad_(), half, ASKED, TARGETS)
    wide = Scores(hidden.bfloat16().double(), Head(weight.bfloat16().double()), ASKED, TARGETS)
    assert scores.logp.dtype == torch.float32
    assert torch.allclose(scores.logp.detach().double(), wide.logp, rtol=1e-5, atol=1e-4)
    scores.logp.sum().backward()
    assert scores.hidden.grad.dtype == torch.bfloat16 and scores.hidden.grad.isfinite().all()


def test_chunks_are_bounded_by_the_head_and_made_of_whole_blocks():
    for words, width, count in [
        (151_936, 256, 2048),
        (151_936, 2048, 2048),
        (4096, 64, 9),
        (64, 8, 1),
    ]:
        head = Head(torch.empty(words, width, device="meta"))
        chunk, rows = sweep.sizes(count, head)
        assert chunk % rows == 0 and 1 <= rows <= chunk
        assert chunk * words <= max(words * width / 4, 128 * words, sweep.CACHED) + rows * words


COMPILED = """
import sys, torch
from autodidact import sweep
from autodidact.divergence import Divergence
from autodidact.head import Head
from autodidact.scores import Scores

generator = torch.Generator().manual_seed(0)
hidden, other = torch.randn(2, 7, 4, generator=generator)
weights = torch.randn(2, sweep.LARGE, 4, generator=generator)
asked = torch.ones(1, 7, dtype=torch.bool)

def both(kind):
    student = Scores(hidden.clone().requires_grad_(), Head(weights[0]), asked, torch.arange(7))
    value = student.divergence(Scores(other, Head(weights[1]), asked, torch.arange(7)), kind)
    (gradient,) = torch.autograd.grad(value.sum(), student.hidden)
    return {"value": value.detach(), "gradient": gradient, **student.notes}

for kind in (Divergence("jsd"), Divergence("reverse", clip=0.05)):
    sweep._compiles = lambda device: True
    compiled = both(kind)
    sweep._compiles = lambda device: False
    eager = both(kind)
    for name, value in eager.items():
        assert torch.allclose(compiled[name], value, rtol=1e-4, atol=1e-5), name
print("compiled", torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sweep._compiles("cpu"), reason="there is no C++ compiler")
def test_compiled_work_gives_the_same_numbers():
    """In a process of its own, as the checks of shapes in tests cannot be compiled."""
    found = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "compiled 2\n"


def test_both_sides_need_one_vocabulary():
    student, teacher = sides()
    small = replace(teacher, head=Head(random_logits(V - 1, D)))
    with pytest.raises(ValueError, match="11 words, the teacher's 10"):
        student.divergence(small, Divergence())
