"""Prompts: their content, and their exact text where the paper prints it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.prompting.prompts import (
    LETTERS,
    NAMING,
    guesses_prompt,
    letters_prompt,
    list_answer,
    list_prompt,
    with_exemplars,
)
from data_prep.prompting.replies import read_list

one_line_names = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" '\",[]{}%\\"), min_size=1)


@given(st.lists(one_line_names, min_size=1, max_size=26))
@settings(max_examples=60, deadline=None)
def test_letters_prompt_gives_each_name_its_letter_in_order(names):
    lines = letters_prompt(names).split("\n")
    assert lines[1:-1] == [f"{letter}. {name}" for letter, name in zip(LETTERS, names, strict=False)]
    assert lines[0].endswith("?")
    assert "letter" in lines[-1]


def test_descriptions_stand_beside_the_names_one_line_a_candidate():
    names, descriptions = ["cat", "dog", "fish"], ["has whiskers", "", "swims"]
    lines = letters_prompt(names, descriptions).split("\n")
    assert lines[1:-1] == ["A. cat: has whiskers", "B. dog", "C. fish: swims"]
    assert letters_prompt(names, ["", "", ""]) == letters_prompt(names)
    lines = list_prompt(names, descriptions=descriptions).split("\n")
    assert lines == [list_prompt(names), "cat: has whiskers", "fish: swims"]
    structured = list_prompt(names, structured=True, descriptions=descriptions)
    assert structured.startswith("\n".join(lines)) and structured.endswith(list_prompt(names, True)[-60:])


def test_letters_prompt_rejects_more_names_than_letters():
    with pytest.raises(ValueError, match="27 candidates, but only 26 letters"):
        letters_prompt([str(n) for n in range(27)])


def test_list_prompt_is_the_text_of_the_paper():
    assert list_prompt(["cat", "dog's bed"]) == (
        "Please play the role of a classification expert, and sort the provided 2 categories from high to low "
        "according to the top 2 similarity with the input image. Here are the optional categories:"
        "['cat', \"dog's bed\"]."
    )


def test_structured_list_prompt_adds_the_released_reply_format_for_the_actual_number_of_categories():
    five = list("abcde")
    assert list_prompt(five, structured=True) == list_prompt(five) + (
        " Your answer should follow the following format, like:['category A', 'category B', 'category C', "
        "'category D', 'category E']. Only choose five categories, and no further information."
    )
    three = list_prompt(five[:3], structured=True)
    assert three.endswith(
        "like:['category A', 'category B', 'category C']. Only choose three categories, and no further information."
    )


def test_guesses_prompt_states_the_number_of_names_and_the_subject():
    assert guesses_prompt(1) == NAMING
    assert guesses_prompt(1, "bird species") == "What bird species does the picture show? Answer with its name alone."
    prompt = guesses_prompt(2, "bird species")
    assert prompt.startswith("What bird species does the picture show? List two possible names, the most likely first")
    assert "such as ['name A', 'name B']" in prompt
    assert "What object does" in guesses_prompt(40) and "List 40 possible" in guesses_prompt(40)


def test_exemplar_images_are_explained_before_the_prompt():
    assert with_exemplars(letters_prompt(["cat"])).endswith("\n" + letters_prompt(["cat"]))


@given(st.lists(one_line_names, min_size=1, max_size=8, unique_by=lambda n: " ".join(n.split()).casefold()))
@settings(max_examples=60, deadline=None)
def test_list_prompt_contains_the_names_in_order_whatever_their_characters(names):
    assert list_answer(names) in list_prompt(names)
    assert read_list(list_prompt(names), names).order == tuple(range(len(names)))
