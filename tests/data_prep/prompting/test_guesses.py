"""Names parsed from replies: what models write, never a name that is not in the reply, never an exception."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.names import normalize_name
from data_prep.prompting.guesses import count_names, elect_names, read_guesses
from data_prep.prompting.prompts import list_answer

BIRDS = ("Blue Jay", "Clark's Nutcracker", "Black-footed Albatross")


@pytest.mark.parametrize(
    ("reply", "names", "outcome"),
    [
        (list_answer(BIRDS), BIRDS, "ok"),
        (json.dumps(BIRDS), BIRDS, "ok"),
        ('<think>A jay? [1]</think>["Blue Jay", "Owl", "Crow"]', ("Blue Jay", "Owl", "Crow"), "ok"),
        ('{"names": ["Blue Jay", "Owl", "Crow"]}', ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("Sure! ['Blue Jay', 'Owl', 'Crow']\nI hope this helps.", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("['Blue Jay', 'blue  jay', 'Crow']", ("Blue Jay", "Crow"), "repaired"),
        ("['Blue Jay', 'Owl']", ("Blue Jay", "Owl"), "repaired"),
        ("['Blue Jay', 'Owl', 'Crow', 'Kite']", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("['Blue Jay', 'Owl', 'Cr", ("Blue Jay", "Owl"), "repaired"),
        ("['Blue Jay', 'unknown', 'N/A']", ("Blue Jay",), "repaired"),
        ("1. Blue Jay\n2. Steller's Jay\n3. Crow", ("Blue Jay", "Steller's Jay", "Crow"), "repaired"),
        ("- **Blue Jay**: blue crest\n- **Owl** - large eyes\n- Crow.", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("Blue Jay\nOwl\nCrow", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("Here are three:\nBlue Jay\nOwl\nCrow", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("Sure, possible birds are: Blue Jay, Owl, Crow.", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("The image shows a Blue Jay, an Owl, and a Crow.", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("1) **Blue Jay** (*Cyanocitta*)\n2) Owl: a guess", ("Blue Jay", "Owl"), "repaired"),
        ("```python\n['Blue Jay', 'Owl', 'Crow']\n```", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("[Blue Jay, Owl, Crow]", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("This is a Blue Jay, an Owl, or a Crow.", ("Blue Jay", "Owl", "Crow"), "repaired"),
        ("Possible names: Blue Jay, Owl and Crow", ("Blue Jay", "Owl and Crow"), "repaired"),
        ("I'm sorry, but I can't identify it.", (), "unreadable"),
        ("The bird stands on a twig. Behind it one sees a lake and many trees and some clouds.", (), "unreadable"),
        ("", (), "unreadable"),
        ("???", (), "unreadable"),
        ("[1, 2, 3]", (), "unreadable"),
    ],
)
def test_three_names_are_parsed_from_typical_replies(reply, names, outcome):
    guess = read_guesses(reply, 3)
    assert (guess.names, guess.outcome, guess.reply) == (names, outcome, reply)


@pytest.mark.parametrize(
    ("reply", "name", "outcome"),
    [
        ("azure, a bend or, three mullets argent", "azure, a bend or, three mullets argent", "ok"),
        ("Blue Jay.", "Blue Jay", "ok"),
        ('"Blue Jay"', "Blue Jay", "ok"),
        ("['Blue Jay']", "Blue Jay", "ok"),
        ("The picture shows a blue jay.", "blue jay", "repaired"),
        ("It is an Owl", "Owl", "repaired"),
        ("Answer: Boeing 707", "Boeing 707", "repaired"),
        ("Blue Jay\nA bird of North America.", "Blue Jay", "repaired"),
        ("row [3]", "row [3]", "ok"),
        ("Audi TT (2012)", "Audi TT (2012)", "ok"),
    ],
)
def test_if_one_name_is_requested_the_complete_reply_is_the_name(reply, name, outcome):
    guess = read_guesses(reply, 1)
    assert (guess.names, guess.outcome) == ((name,), outcome)


words = st.text("abcdefgXYZ0123456789'-", min_size=2, max_size=8).map(lambda word: f"q{word}s")
names = st.lists(words, min_size=1, max_size=4).map(" ".join)
lists = st.lists(names, min_size=2, max_size=6, unique_by=normalize_name)


@given(lists, st.sampled_from([list_answer, json.dumps]))
def test_a_list_of_names_is_parsed_unchanged(written, write):
    guess = read_guesses(write(written), len(written))
    assert (guess.names, guess.outcome) == (tuple(written), "ok")


@given(lists, st.sampled_from(["{n}. {name}", "- {name}", "{name}"]))
def test_names_on_separate_lines_are_parsed(written, line):
    reply = "\n".join(line.format(n=n, name=name) for n, name in enumerate(written, 1))
    guess = read_guesses(reply, len(written))
    assert (guess.names, guess.outcome) == (tuple(written), "repaired")


@given(lists, st.data())
def test_a_truncated_list_gives_the_names_before_the_cut(written, data):
    reply = list_answer(written)
    all_names = read_guesses(reply, len(written)).names
    cut = data.draw(st.integers(reply.index(", ") + 2, len(reply) - 1))
    guess = read_guesses(reply[:cut], len(written))
    assert guess.names == all_names[: len(guess.names)] and guess.names
    assert guess.outcome == "repaired"


@given(st.text(max_size=200) | st.text("[]'\",.;:-\n12ab I\\*", max_size=80), st.integers(1, 4))
def test_every_reply_gives_a_valid_guess(reply, count):
    guess = read_guesses(reply, count)
    assert len(guess.names) <= count and all(name.strip() for name in guess.names)
    assert len({normalize_name(name) for name in guess.names}) == len(guess.names)
    assert guess.outcome == ("unreadable" if not guess.names else guess.outcome)
    assert guess.outcome != "ok" or len(guess.names) == count


def test_names_are_counted_by_image_under_their_most_frequent_spelling():
    guesses = [("Blue Jay", "blue jay"), ("blue  jay", "Owl"), ("blue jay",), ()]
    assert count_names(guesses) == {"blue jay": 3, "Owl": 1}
    assert count_names([("b",), ("B",)]) == {"B": 2}  # on ties the alphabetically first


@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=4, unique=True), min_size=1, max_size=12), st.integers(1, 3)
)
def test_names_with_enough_votes_are_elected(orders, min_votes):
    votes, choices = elect_names(orders, min_votes)
    firsts = [order[0] for order in orders if order]
    assert votes == {name: firsts.count(name) for name in sorted(set(firsts)) if firsts.count(name) >= min_votes}
    for order, choice in zip(orders, choices, strict=True):
        elected = [name for name in order if name in votes]
        assert choice == (elected[0] if elected else None)
    if min_votes == 1:
        assert [choice for choice in choices if choice] == firsts  # every image gets its first choice
        assert sum(votes.values()) == len(firsts)
