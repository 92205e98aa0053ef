"""Only permutations can be written, and each of them can."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.prompting.prompts import list_answer, list_prompt
from data_prep.prompting.replies import read_list
from eval.ranking.constrained import Permutations
from rar_train.models.mllm import Mllm

AWKWARD = ["a bend or", "a bend", "St. Mary's cross", 'the "Rock"', "fess, azure"]


def by_character(names) -> list[int]:
    return [*map(ord, list_answer(names)), 0]


def walk(tree: Permutations, pick) -> list[int]:
    """Writes by picking among what is allowed."""
    written: list[int] = []
    while options := tree.allowed(written):
        written.append(pick(options))
        assert len(written) < 2000
    return written


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab', \"[]", min_size=1, max_size=5), min_size=1, max_size=5, unique=True), st.randoms())
def test_whatever_is_picked_is_a_permutation(names, rng):
    written = walk(Permutations(by_character, names), rng.choice)
    assert written in [by_character(order) for order in permutations(names)]


def test_every_permutation_can_be_written():
    names = AWKWARD[:4]
    for order in permutations(names):
        wanted = by_character(order)
        tree, written = Permutations(by_character, names), []
        for token in wanted:
            assert token in tree.allowed(written)
            written.append(token)
        assert tree.allowed(written) == []


def test_a_name_that_begins_another_leaves_both_open():
    tree = Permutations(by_character, ["bend", "bend or"])
    written = [*map(ord, "['bend")]
    for place in range(len(written)):
        tree.allowed(written[:place])
    assert set(tree.allowed(written)) == {ord("'"), ord(" ")}


@pytest.mark.parametrize("seed", range(5))
def test_real_tokens_make_lists_that_read_back_without_repair(nano: Mllm, seed):
    prompt = list_prompt(AWKWARD)
    tree = Permutations(lambda names: nano.answer_ids(prompt, list_answer(names)), AWKWARD)
    written = walk(tree, random.Random(seed).choice)
    text = nano.processor.tokenizer.decode(written, skip_special_tokens=True)
    ranking = read_list(text, AWKWARD)
    assert ranking.outcome == "ok"
    assert tuple(written) == nano.answer_ids(prompt, list_answer([AWKWARD[place] for place in ranking.order]))


def test_lists_are_laid_out_lazily_so_many_candidates_are_affordable():
    asked = []

    def tokenise(names):
        asked.append(names)
        return by_character(names)

    walk(Permutations(tokenise, [f"class {n:02}" for n in range(30)]), lambda options: options[0])
    assert len(asked) <= 30 * 31 / 2
