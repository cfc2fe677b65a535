"""A head that is sharded over two processes is scored as one that is not, gradients included."""

from __future__ import annotations

import os

import pytest
import torch
import torch.multiprocessing as mp

from autodidact.divergence import Divergence
from autodidact.head import Head, whole
from autodidact.scores import Scores

N, D, V = 6, 4, 10


def numbers() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((N, D), (N, D), (V, D), (V,), (V, D), (N,))
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def loss(rows: slice, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    hidden, other, _, _, theirs, counts = numbers()
    asked, targets = torch.ones(1, len(hidden[rows]), dtype=torch.bool), torch.arange(N)[rows]
    student = Scores(hidden[rows], Head(weight, bias), asked, targets, weight=counts[rows])
    teacher = Scores(other[rows], Head(theirs), asked, targets)
    return (student.divergence(teacher, Divergence("jsd")) * counts[rows]).sum()


def half(rank: int, place: str) -> None:
    """What one of two processes does: half of the tokens, with half of the head at rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{place}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    leaves = [distribute_tensor(each, mesh, [Shard(0)]).requires_grad_() for each in numbers()[2:4]]
    value = loss(slice(3 * rank, 3 * rank + 3), *(whole(each) for each in leaves))
    value.backward()
    assert all(each.to_local().shape[0] == V // 2 for each in leaves)
    grads = [each.grad.full_tensor() for each in leaves]
    torch.save([value.detach(), *grads], os.path.join(place, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed part")
def test_values_and_summed_gradients_are_those_of_one_process(tmp_path):
    leaves = [each.requires_grad_() for each in numbers()[2:4]]
    expected = loss(slice(0, N), *leaves)
    expected.backward()
    mp.spawn(half, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert torch.allclose(found[0][0] + found[1][0], expected.detach(), rtol=1e-12)
    for rank in range(2):
        for one, leaf in zip(found[rank][1:], leaves, strict=True):
            assert torch.allclose(one, leaf.grad, rtol=1e-12, atol=1e-15)


def test_a_plain_weight_stays_itself():
    weight = torch.ones(2, 2)
    assert whole(weight) is weight
