"""Prefix trees: token sequences that begin alike, merged into one row, so that a common prefix is processed once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass
class PrefixTree:
    """Sequences with a common head, merged by common prefix.

    Nodes are numbered in pre-order, so that a node's descendants follow it up to its end: node ``i`` sees node ``j`` if
    ``j <= i < ends[j]``. The head's tokens are the nodes ``0`` to ``head - 1``.

    Attributes:
        head: Number of tokens in the head.
        ids: Token of each node after the head.
        depths: Number of ancestors of each node after the head, which is its position in its sequences.
        ends: For each node after the head, the node after its last descendant.
        paths: The nodes of each sequence after the head, by the sequence's index in the caller's list.
    """

    head: int
    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    paths: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.head + len(self.ids)

    def add(self, index: int, tail: Sequence[int], previous: Sequence[int], shared: int) -> None:
        """Adds a sequence, in sorted order.

        Args:
            index: Its index in the caller's list.
            tail: Its tokens after the head.
            previous: The nodes of the sequence added before it.
            shared: Number of tokens that it shares with that one.
        """
        start = len(self)
        self.ids += tail[shared:]
        self.depths += range(self.head + shared, self.head + len(tail))
        self.ends += [0] * (len(tail) - shared)
        self.paths[index] = [*previous[:shared], *range(start, len(self))]
        for node in self.paths[index]:
            self.ends[node - self.head] = len(self)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Counts the tokens that two sequences share at their beginning."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def merge_sequences(head: int, tails: Sequence[Sequence[int]], budget: int) -> list[PrefixTree]:
    """Merges sequences with a common head into one tree, or into several of about equal size.

    Sequences are added in sorted order, so that those that share a prefix are neighbours. One tree of more nodes than
    the budget becomes as few as the budget allows, each with the same head and about its share of the nodes.

    Args:
        head: Number of tokens in the common head.
        tails: Tokens of each sequence after the head.
        budget: Number of nodes after the head that a tree may have; the last sequence in a tree may exceed it by half
            its length.
    """
    order = sorted(range(len(tails)), key=lambda index: tails[index])
    shared = [0] + [common_prefix(tails[one], tails[other]) for one, other in pairwise(order)]
    total = sum(map(len, tails)) - sum(shared)
    count = math.ceil(total / budget)
    size = math.inf if count <= 1 else total / count
    trees = [PrefixTree(head)]
    nodes: list[int] = []
    for index, common in zip(order, shared, strict=True):
        tree, tail = trees[-1], tails[index]
        grown = len(tree.ids) + len(tail) - common
        if tree.paths and grown + len(tree.ids) > 2 * size:  # closer to the share without this sequence
            tree, nodes, common = PrefixTree(head), [], 0
            trees.append(tree)
        tree.add(index, tail, nodes, common)
        nodes = tree.paths[index]
    return trees
