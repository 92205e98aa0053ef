"""The grammar of a list: exactly the permutations, whatever is in the names."""

from __future__ import annotations

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.prompting.prompts import list_answer
from eval.ranking.grammar import permutation_grammar
from tests.serving import expand

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4, unique=True)


@given(NAMES)
@settings(max_examples=50, deadline=None)
def test_it_holds_every_permutation_once_and_nothing_else(names):
    texts = list(expand(permutation_grammar([repr(name) for name in names])))
    assert len(texts) == len(set(texts))
    assert set(texts) == {list_answer(order) for order in permutations(names)}
