"""Constrained decoding: only permutations can be written, and each of them can."""

from __future__ import annotations

import random
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.prompting.prompts import list_answer, list_prompt
from data_prep.prompting.replies import read_list
from eval.ranking.constrained import PermutationConstraint
from rar_train.models.mllm import Mllm

AWKWARD = ["a bend or", "a bend", "St. Mary's cross", 'the "Rock"', "fess, azure"]


def tokenise_characters(names) -> list[int]:
    return [*map(ord, list_answer(names)), 0]


def decode(constraint: PermutationConstraint, pick) -> list[int]:
    """Writes a reply by picking among the allowed tokens."""
    written: list[int] = []
    while options := constraint.allowed(written):
        written.append(pick(options))
        assert len(written) < 2000
    return written


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab', \"[]", min_size=1, max_size=5), min_size=1, max_size=5, unique=True), st.randoms())
def test_any_choice_of_tokens_is_a_permutation(names, rng):
    written = decode(PermutationConstraint(tokenise_characters, names), rng.choice)
    assert written in [tokenise_characters(order) for order in permutations(names)]


def test_every_permutation_can_be_written():
    names = AWKWARD[:4]
    for order in permutations(names):
        expected = tokenise_characters(order)
        constraint, written = PermutationConstraint(tokenise_characters, names), []
        for token in expected:
            assert token in constraint.allowed(written)
            written.append(token)
        assert constraint.allowed(written) == []


def test_a_name_that_is_a_prefix_of_another_leaves_both_possible():
    constraint = PermutationConstraint(tokenise_characters, ["bend", "bend or"])
    written = [*map(ord, "['bend")]
    for length in range(len(written)):
        constraint.allowed(written[:length])
    assert set(constraint.allowed(written)) == {ord("'"), ord(" ")}


@pytest.mark.parametrize("seed", range(5))
def test_real_tokens_give_lists_that_are_parsed_without_repair(nano: Mllm, seed):
    prompt = list_prompt(AWKWARD)
    constraint = PermutationConstraint(lambda names: nano.answer_ids(prompt, list_answer(names)), AWKWARD)
    written = decode(constraint, random.Random(seed).choice)
    text = nano.processor.tokenizer.decode(written, skip_special_tokens=True)
    ranking = read_list(text, AWKWARD)
    assert ranking.outcome == "ok"
    assert tuple(written) == nano.answer_ids(prompt, list_answer([AWKWARD[index] for index in ranking.order]))


def test_lists_are_tokenised_lazily_so_that_many_candidates_are_feasible():
    tokenised = []

    def tokenise(names):
        tokenised.append(names)
        return tokenise_characters(names)

    decode(PermutationConstraint(tokenise, [f"class {n:02}" for n in range(30)]), lambda options: options[0])
    assert len(tokenised) <= 30 * 31 / 2
