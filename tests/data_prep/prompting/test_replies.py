"""Parsing replies: always a permutation of the candidates, with an outcome that says how it was obtained."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_prep.core.names import normalize_name
from data_prep.prompting.prompts import list_answer
from data_prep.prompting.replies import read_list

NAMES = ["a bend or", "a bend sinister or", "St. Mary's cross", "fess, azure", 'the "Rock" [old]']

# Pieces that make replies hard to parse are generated far more often than by chance.
pieces = st.sampled_from([*NAMES, "[", "]", "'", '"', ", ", "\\", "{", "}", "\n", "1. ", "(", ")", "\x00"])
replies = st.one_of(st.text(), st.lists(pieces | st.text(max_size=3), max_size=12).map("".join))
awkward = st.text(st.sampled_from("ab'\",[](){}\\ \nßİ"), min_size=1, max_size=8)
distinct_names = st.lists(
    (awkward | st.text(min_size=1, max_size=20)).filter(normalize_name),
    min_size=1,
    max_size=8,
    unique_by=normalize_name,
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
def test_a_formatted_answer_is_parsed_unchanged(answer):
    names = sorted(answer)
    ranking = read_list(list_answer(answer), names)
    assert [names[position] for position in ranking.order] == answer
    assert ranking.outcome == "ok"


def test_a_list_is_found_within_a_sentence_and_case_is_ignored():
    reply = "Sure [1]! Here is the list: ['FESS,  azure', 'a bend or', \"st. mary's cross\"]. Hope it helps."
    ranking = read_list(reply, NAMES[:1] + NAMES[2:4])
    assert (ranking.order, ranking.outcome) == ((2, 0, 1), "ok")


def test_repeats_and_unknown_names_are_dropped_and_missing_names_appended():
    ranking = read_list("['cat', 'fess, azure', 'fess, azure', 'a bend or']", NAMES)
    assert (ranking.order, ranking.outcome) == ((3, 0, 1, 2, 4), "repaired")


@pytest.mark.parametrize("reply", ["['a', 'b', 'b']", "['a', 'c', 'b']", "['a']", "a, then b"])
def test_a_reply_that_does_not_list_each_candidate_once_counts_as_repaired(reply):
    ranking = read_list(reply, ["a", "b"])
    assert (ranking.order, ranking.outcome) == ((0, 1), "repaired")


def test_free_text_is_parsed_in_the_order_of_mention():
    ranking = read_list("Rather fess, azure than A Bend Or.", NAMES)
    assert (ranking.order, ranking.outcome) == ((3, 0, 1, 2, 4), "repaired")


def test_a_longer_name_is_not_mistaken_for_the_shorter_one_within_it():
    assert read_list("It is a bend sinister.", ["cross", "bend", "bend sinister"]).order == (2, 0, 1)
    assert read_list("Crossing the street", ["bend", "cross"]).outcome == "unreadable"


def test_a_reply_without_any_candidate_keeps_the_order_of_the_retriever():
    for reply in ("", "I can't tell.", "['cat', 'dog']", "[]"):
        ranking = read_list(reply, NAMES)
        assert (ranking.order, ranking.outcome) == ((0, 1, 2, 3, 4), "unreadable")


def test_a_bracketed_dictionary_or_set_does_not_break_the_parser():
    """``ast.literal_eval`` raises TypeError on unhashable keys."""
    for reply in ("[{[]: 1}] a bend or", "[{{}}] a bend or"):
        assert read_list(reply, NAMES).order[0] == 0


def test_brackets_around_other_text_do_not_hide_the_candidates():
    ranking = read_list("[] The shield shows fess, azure.", NAMES)
    assert (ranking.order[0], ranking.outcome) == (3, "repaired")
    ranking = read_list("['Answer'] The shield shows fess, azure.", NAMES)
    assert (ranking.order[0], ranking.outcome) == (3, "repaired")


def test_a_longer_name_mentioned_twice_is_not_mistaken_for_the_shorter_one():
    ranking = read_list("A bend sinister, yes, a bend sinister; perhaps a cross.", ["bend", "bend sinister", "cross"])
    assert ranking.order == (1, 2, 0)


CATS = ["Maine Coon", "Sphynx", "Abyssinian"]
SHOWN = ["Abyssinian", "Maine Coon", "Sphynx"]  # A, B, C and 1, 2, 3


@pytest.mark.parametrize(
    "reply",
    [
        "['Sphynx', 'Maine Coon', 'Abyssinian']",
        '["Sphynx", "Maine Coon", "Abyssinian"]',
        '```json\n{"ranking": ["Sphynx", "Maine Coon", "Abyssinian"]}\n```',
        "[Sphynx, Maine Coon, Abyssinian]",
        "Sphynx, Maine Coon, Abyssinian.",
        "sphynx > maine coon > abyssinian",
        "Sphynx\nMaine Coon\nAbyssinian",
        "1. Sphynx\n2. Maine Coon\n3. Abyssinian",
        "The order is as follows.\n\n1) **Sphynx** - no fur\n2) **Maine Coon**: large\n3) Abyssinian (5 %)\n",
        "- Sphynx\n- Maine Coon\n- Abyssinian",
        "* “Sphynx”\n* “Maine Coon”\n* “Abyssinian”",
        "C. Sphynx\nB. Maine Coon\nA. Abyssinian",
        "C, B, A",
        "C > B > A",
        "C B A",
        "(C), (B), (A)",
        "['C', 'B', 'A']",
        "[3, 2, 1]",
        "3, 2, 1",
        "1. C\n2. B\n3. A",
        "Answer: C, B, A",
        "1. Maine Coon\n2. Sphynx\nOn a second look, answer: C, B, A",
        "Final answer: ['Sphynx', 'Maine Coon', 'Abyssinian']",
        "It has no fur, so I rule out A.\n**Ranking:** Sphynx, Maine Coon, Abyssinian",
        "<think>Perhaps ['Abyssinian', 'Sphynx', 'Maine Coon']? No.</think>\n['Sphynx', 'Maine Coon', 'Abyssinian']",
        "Abyssinian, or rather not.</think>C, B, A",
        "[3] > [2] > [1]",
        "[C]>[B]>[A]",
        "(C) > (B) > (A).",
        "3 -> 2 -> 1",
        "[3] ≻ [2] = [1]",
        "[3], [2], [1]",
        "[3]\n[2]\n[1]",
        "[3, 2] > [1]",
        "[[3] > [2] > [1]]",
        "['Sphynx'] > ['Maine Coon'] > ['Abyssinian']",
        "[Sphynx] > [Maine Coon] > [Abyssinian]",
        "'Sphynx' > 'Maine Coon' > 'Abyssinian'",
        "**Sphynx** > **Maine Coon** > **Abyssinian**",
        "Ranking: [3] > [2] > [1]\nReason: it has no fur.",
        "The order is [3] > [2] > [1]. [1] has fur.",
        "It has no fur, so I rank them C > B > A.",
        "By the tail [B, A], but by its fur [C, B, A].",
    ],
)
def test_lists_of_many_forms_are_parsed_completely(reply):
    ranking = read_list(reply, CATS, SHOWN)
    assert ([CATS[i] for i in ranking.order], ranking.outcome) == (["Sphynx", "Maine Coon", "Abyssinian"], "ok")


@pytest.mark.parametrize(
    "reply", ["C", "C.", "(C)", "Answer: C", "The answer is C.", "I'd say the answer is (C)", "Sphynx", "3"]
)
def test_a_single_label_or_name_is_ranked_first_and_the_rest_as_retrieved(reply):
    ranking = read_list(reply, CATS, SHOWN)
    assert (ranking.order, ranking.outcome) == ((1, 0, 2), "repaired")


@pytest.mark.parametrize(
    "reply", ["The answer is a cat.", "A cat, I think.", "<think>Sphynx, Maine Coon", "D, E", "7", "I see 3 cats", "[]"]
)
def test_a_reply_that_names_no_candidate_is_unreadable(reply):
    assert read_list(reply, CATS, SHOWN).outcome == "unreadable"


def test_names_that_look_like_labels_are_treated_as_names():
    digits = ["0", "1", "2", "3"]
    assert read_list("2, 0, 3, 1", digits, digits[::-1]).order == (2, 0, 3, 1)
    assert read_list("['B', 'A']", ["A", "B"], ["B", "A"]).order == (1, 0)


def test_classes_with_the_same_name_are_adjacent_in_retriever_order():
    names = ["crane", "stork", "crane"]
    for reply in ("['stork', 'crane']", "['stork', 'crane', 'crane']"):
        ranking = read_list(reply, names)
        assert (ranking.order, ranking.outcome) == ((1, 0, 2), "ok")
    assert read_list("['crane', 'crane', 'crane', 'stork']", names).outcome == "repaired"


plain_names = st.lists(
    st.text(st.sampled_from("abcäß'\",.:()[]&/-3 "), min_size=1, max_size=12).filter(lambda name: name.strip() == name),
    min_size=1,
    max_size=6,
    unique_by=lambda name: " ".join(name.split()).casefold(),
)


@given(plain_names, st.randoms())
@example(["St. John's", 'the "Rock"', "a, b", "c/d", "[e]", "3"], None)
@example(["3", "[3]", "3[3]"], None)
@settings(max_examples=100, deadline=None)
def test_names_with_any_punctuation_are_parsed_from_json_and_numbered_lines(names, rng):
    answer = sorted(names) if rng is None else rng.sample(names, len(names))
    numbered = "\n".join(f"{number}. {name}" for number, name in enumerate(answer, 1))
    for reply in (json.dumps(answer), json.dumps({"ranking": answer}), numbered):
        ranking = read_list(reply, names)
        assert ([names[i] for i in ranking.order], ranking.outcome) == (answer, "ok"), reply


@given(st.permutations(range(5)), st.permutations(range(5)))
@settings(max_examples=60, deadline=None)
def test_letters_refer_to_the_order_shown(order, shown):
    reply = ", ".join("ABCDE"[shown.index(candidate)] for candidate in order)
    ranking = read_list(reply, NAMES, [NAMES[candidate] for candidate in shown])
    assert (ranking.order, ranking.outcome) == (tuple(order), "ok")


@given(
    st.permutations(range(6)),
    st.integers(2, 6),
    st.sampled_from([" > ", ">", ", ", " -> ", "\n"]),
    st.sampled_from(["[{}]", "({})", "{}", "'{}'"]),
    st.sampled_from(["{}", "Ranking: {}", "The final order is as follows.\nAnswer: {}.", "[{}]"]),
)
@settings(max_examples=100, deadline=None)
def test_labels_and_names_joined_by_separators_are_parsed_completely(order, count, separator, marks, template):
    names = [*NAMES, "row 3"][:count]
    order = [candidate for candidate in order if candidate < count]
    for labels in ("ABCDEF", "123456", names):
        reply = template.format(separator.join(marks.format(labels[candidate]) for candidate in order))
        ranking = read_list(reply, names)
        assert (ranking.order, ranking.outcome) == (tuple(order), "ok"), reply


@pytest.mark.parametrize("reply", ["[17] > [3] > [0] > [100]", "'17' > '3' > '0' > '100'", "(17), (3), (0), (100)"])
def test_numbers_that_are_names_are_treated_as_names_in_every_form(reply):
    ranking = read_list(reply, ["3", "100", "17", "0"])
    assert (ranking.order, ranking.outcome) == ((2, 0, 3, 1), "ok")


def test_a_comparison_within_a_sentence_is_not_a_ranking():
    ranking = read_list("Since 2 > 1, it is the Sphynx.", CATS, SHOWN)
    assert (ranking.order, ranking.outcome) == ((1, 0, 2), "repaired")


@given(replies, replies)
@settings(max_examples=60, deadline=None)
def test_parsing_a_reply_does_not_depend_on_earlier_replies(earlier, reply):
    before = read_list(reply, NAMES)
    read_list(earlier, NAMES[::-1])
    assert read_list(reply, NAMES) == before


def test_a_hostile_reply_is_parsed_quickly():
    for reply in (
        "[1] > " * 3000,
        "1 > " * 3000,
        "['a'] " * 3000,
        "[A" * 3000,
        "((" * 3000,
        "[" * 5000,
        "['a'" * 2000,
        "<think>" * 3000,
        "answer: " * 3000,
        "1. " * 3000,
        "' ," * 3000,
    ):
        assert sorted(read_list(reply, CATS).order) == [0, 1, 2]


@pytest.mark.parametrize("reply", ["1: C, 2: A, 3: B", "1. C 2. A 3. B", "1) C, 2) A, 3) B", "(1) C > (2) A > (3) B"])
def test_numbers_before_letters_count_them(reply):
    ranking = read_list(reply, ["Pug", "Boxer", "Great Dane"])
    assert (ranking.order, ranking.outcome) == ((2, 0, 1), "ok")
