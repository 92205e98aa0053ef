"""Reading replies: always a permutation of the candidates, with an outcome that tells how it was got."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.prompts import list_answer
from data_prep.replies import read_list

NAMES = ["a bend or", "a bend sinister or", "St. Mary's cross", "fess, azure", 'the "Rock" [old]']

# Pieces that make replies hard to read are drawn far more often than by chance.
pieces = st.sampled_from([*NAMES, "[", "]", "'", '"', ", ", "\\", "{", "}", "\n", "1. ", "(", ")", "\x00"])
replies = st.one_of(st.text(), st.lists(pieces | st.text(max_size=3), max_size=12).map("".join))
awkward = st.text(st.sampled_from("ab'\",[](){}\\ \nßİ"), min_size=1, max_size=8)
distinct_names = st.lists(
    awkward | st.text(min_size=1, max_size=20),
    min_size=1,
    max_size=8,
    unique_by=lambda n: " ".join(n.split()).casefold(),
)


@given(replies, st.lists(st.sampled_from(NAMES) | st.text(max_size=6), max_size=8))
@settings(max_examples=100, deadline=None)
def test_every_reply_gives_a_permutation(reply, names):
    ranking = read_list(reply, names)
    assert sorted(ranking.order) == list(range(len(names)))
    assert ranking.outcome in ("ok", "repaired", "unreadable")
    assert ranking.reply == reply
    if ranking.outcome == "unreadable":
        assert ranking.order == tuple(range(len(names)))


@given(distinct_names)
@example(["back\\slash", "O'Neil", "a, b", 'the "Rock"', "[x]", "['x']", "])}"])
@settings(max_examples=100, deadline=None)
def test_a_rendered_answer_reads_back_as_itself(answer):
    names = sorted(answer)
    ranking = read_list(list_answer(answer), names)
    assert [names[position] for position in ranking.order] == answer
    assert ranking.outcome == "ok"


def test_an_answer_is_found_within_a_sentence_and_whatever_its_case():
    reply = "Sure [1]! Here is the list: ['FESS,  azure', 'a bend or', \"st. mary's cross\"]. Hope it helps."
    ranking = read_list(reply, NAMES[:1] + NAMES[2:4])
    assert (ranking.order, ranking.outcome) == ((2, 0, 1), "ok")


def test_repeats_and_strangers_are_dropped_and_missing_names_appended():
    ranking = read_list("['cat', 'fess, azure', 'fess, azure', 'a bend or']", NAMES)
    assert (ranking.order, ranking.outcome) == ((3, 0, 1, 2, 4), "repaired")


@pytest.mark.parametrize("names", ["['a', 'b', 'b']", "['a', 'c', 'b']", "['a']", "a, then b"])
def test_anything_but_each_candidate_once_counts_as_repaired(names):
    ranking = read_list(names, ["a", "b"])
    assert (ranking.order, ranking.outcome) == ((0, 1), "repaired")


def test_free_text_is_read_in_the_order_of_mention():
    ranking = read_list("Rather fess, azure than A Bend Or.", NAMES)
    assert (ranking.order, ranking.outcome) == ((3, 0, 1, 2, 4), "repaired")


def test_a_longer_name_is_not_taken_for_the_shorter_one_within_it():
    assert read_list("It is a bend sinister.", ["cross", "bend", "bend sinister"]).order == (2, 0, 1)
    assert read_list("Crossing the street", ["bend", "cross"]).outcome == "unreadable"


def test_a_reply_without_any_candidate_keeps_the_order_of_the_retriever():
    for reply in ("", "I can't tell.", "['cat', 'dog']", "[]"):
        ranking = read_list(reply, NAMES)
        assert (ranking.order, ranking.outcome) == ((0, 1, 2, 3, 4), "unreadable")


def test_a_bracketed_dictionary_or_set_does_not_break_the_reading():
    """``ast.literal_eval`` raises TypeError on keys that do not hash."""
    for reply in ("[{[]: 1}] a bend or", "[{{}}] a bend or"):
        assert read_list(reply, NAMES).order[0] == 0


def test_brackets_around_other_text_do_not_hide_the_candidates():
    ranking = read_list("[] The shield shows fess, azure.", NAMES)
    assert (ranking.order[0], ranking.outcome) == (3, "repaired")
    ranking = read_list("['Answer'] The shield shows fess, azure.", NAMES)
    assert (ranking.order[0], ranking.outcome) == (3, "repaired")


def test_a_longer_name_said_twice_is_not_taken_for_the_shorter_one():
    ranking = read_list("A bend sinister, yes, a bend sinister; perhaps a cross.", ["bend", "bend sinister", "cross"])
    assert ranking.order == (1, 2, 0)
