"""Prefix trees: every sequence is a path whose nodes see their ancestors alone, and nothing shared is repeated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rar_train.models.tree import PrefixTree, merge_sequences

sequences = st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=12)


def visible(tree: PrefixTree, node: int) -> list[int]:
    """Lists the nodes that a node sees by the rule of intervals."""
    ends = [len(tree)] * tree.head + tree.ends
    return [other for other in range(node + 1) if node < ends[other]]


@given(sequences, st.integers(1, 4), st.integers(1, 40))
def test_a_node_sees_the_nodes_before_it_in_its_sequences_and_no_others(tails, head, budget):
    trees = merge_sequences(head, tails, budget)
    paths = {index: (tree, nodes) for tree in trees for index, nodes in tree.paths.items()}
    assert sorted(paths) == list(range(len(tails))) and sum(len(tree.paths) for tree in trees) == len(tails)
    for index, (tree, nodes) in paths.items():
        assert [tree.ids[node - head] for node in nodes] == tails[index]
        assert [tree.depths[node - head] for node in nodes] == list(range(head, head + len(nodes)))
        path = [*range(head), *nodes]
        assert all(visible(tree, node) == path[: position + 1] for position, node in enumerate(path))


@given(sequences)
def test_one_tree_has_a_node_for_each_distinct_prefix(tails):
    (tree,) = merge_sequences(1, tails, 10_000)
    assert len(tree) - 1 == len({tuple(tail[:end]) for tail in tails for end in range(1, len(tail) + 1)})


@given(sequences, st.integers(1, 40))
def test_a_tree_that_is_too_large_becomes_trees_of_about_equal_size(tails, budget):
    (whole,) = merge_sequences(1, tails, 10_000)
    trees = merge_sequences(1, tails, budget)
    longest = max(map(len, tails))
    assert all(len(tree.ids) <= max(budget + longest / 2, longest) for tree in trees)
    assert (len(trees) == 1) or len(whole.ids) > budget
