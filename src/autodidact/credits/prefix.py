"""The completions of a group as a tree of prefixes, in O(B T): its nodes and what they are worth.

Shapes: B rows, T columns. The node of column t is the prefix y_<=t of a row within its group; rows
of a group that begin alike share the nodes of what they share. A prompt is part of the prefix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from autodidact.batch import Batch


class Prefixes(NamedTuple):
    """The tree of each group.

    Attributes:
        node: [B, T], the number of each real token's node, unique in the batch; 0 where not real.
        parent: [B, T], that of the prefix one token shorter; of a first token its group's root.
        nodes: how many numbers there are, that of padding and the roots included.
    """

    node: Int[torch.Tensor, "B T"]
    parent: Int[torch.Tensor, "B T"]
    nodes: int


def prefixes(batch: Batch) -> Prefixes:
    """The trees of a batch: two columns are one node where group and all tokens up to it agree."""
    above = batch.group.unique(return_inverse=True)[1] + 1
    node, parent = torch.zeros_like(batch.ids), torch.zeros_like(batch.ids)
    count = int(above.max()) + 1 if len(batch) else 1
    words = int(batch.ids.max()) + 1 if batch.ids.numel() else 1
    for column in range(batch.ids.shape[1]):
        rows = batch.real[:, column].nonzero().squeeze(1)
        if not len(rows):
            break
        names, index = (above[rows] * words + batch.ids[rows, column]).unique(return_inverse=True)
        parent[rows, column] = above[rows]
        above = above.clone()
        above[rows] = index + count
        node[rows, column] = above[rows]
        count += len(names)
    return Prefixes(node, parent, count)


def node_means(
    tree: Prefixes, values: Float[torch.Tensor, "B"]
) -> tuple[Float[torch.Tensor, "B T"], Float[torch.Tensor, "B T"]]:
    """The mean of the values of all rows through each node, and through its parent.

    V(s) = mean { R_j : y_j begins with s }: with rewards these are the labels of TVM (2407.12863)
    and the values of TEMPO (2509.18314). Rows whose value is NaN are left out; 0 where none is
    left, and where nothing is real. Sums are in float64.
    """
    known = ~values.isnan()
    real = tree.node > 0
    rows = (torch.where(known, values, 0.0).double(), known.double())
    sums = []
    for each in rows:
        spread = each[:, None].expand(tree.node.shape)
        whole = spread.new_zeros(tree.nodes).index_add(0, tree.node[real], spread[real])
        # A root holds all rows of its group, each through its first token.
        sums.append(whole.index_add(0, tree.parent[:, 0], each) if real.numel() else whole)
    mean = sums[0] / sums[1].clamp(min=1)
    mean[0] = 0.0
    return mean[tree.node].to(values.dtype), (mean[tree.parent] * real).to(values.dtype)


def branch_values(batch: Batch) -> Float[torch.Tensor, "B T"]:
    """V(y_<=t) - V(y_<t) at each own token: what a token at a branch changes, 0 elsewhere.

    V is the mean reward of the group's rows below a node, the row's own included (TEMPO,
    2509.18314). Along a row that ends alone it sums to R - mean R, and to 0 over the children of
    a node, each weighed by its rows.
    """
    after, before = node_means(prefixes(batch), batch.take("reward"))
    return (after - before) * batch.own
