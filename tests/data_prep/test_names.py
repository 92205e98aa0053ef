"""Names: which count as the same, and that classes are always told apart."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.names import folded, told_apart
from data_prep.prompts import list_answer
from data_prep.replies import read_list

some_names = st.lists(st.sampled_from(["crane", "Crane", "crane ", "crane (2)", "crane (3)"]) | st.text(min_size=1))


@settings(max_examples=100, deadline=None)
@given(some_names)
@example(["crane", "crane (2)", "crane", "CRANE"])
def test_classes_are_told_apart_and_names_that_differ_stay(names):
    shown = told_apart(names)
    assert len({folded(name) for name in shown}) == len(names)
    alone = [n for n in names if [folded(other) for other in names].count(folded(n)) == 1]
    assert all(n in shown for n in alone)
    assert all(new == old or new.startswith(old) for new, old in zip(shown, names, strict=True))
    assert told_apart(shown) == shown


def test_two_classes_of_one_name_are_two_answers():
    names = told_apart(["crane", "heron", "Crane"])
    assert names == ("crane", "heron", "Crane (2)")
    ranking = read_list(list_answer([names[2], names[0], names[1]]), names)
    assert (ranking.order, ranking.outcome) == ((2, 0, 1), "ok")
