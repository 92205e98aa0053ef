"""Questions: the order shown, what identifies them, and the pictures that go with them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from eval.ranking.request import RankingRequest, open_request_image, shuffled_requests

CLASSES = tuple(f"class {i}" for i in range(7))


@settings(max_examples=60, deadline=None)
@given(st.permutations(CLASSES), st.text(max_size=10), st.integers(0, 3))
def test_the_order_shown_carries_nothing_of_the_order_retrieved(names, key, shuffle):
    def shown(names) -> list[str]:
        return RankingRequest(key, "", tuple(names), shuffle).shown_names

    assert shown(names) == shown(sorted(names))
    assert sorted(shown(names)) == sorted(names)


@pytest.mark.parametrize("shuffle", [0, 3])
def test_the_order_shown_differs_from_image_to_image_and_puts_each_name_first_as_often(shuffle):
    first = [RankingRequest(str(key), "", CLASSES[:5], shuffle).shown[0] for key in range(1000)]
    assert all(140 < first.count(place) < 260 for place in range(5))


def test_shuffles_are_different_orders_of_the_same_question_and_the_first_is_the_question():
    question = RankingRequest("key", "image.png", CLASSES)
    several = shuffled_requests(question, 6)
    assert several[0] == question
    assert len({tuple(one.shown_names) for one in several}) == 6
    assert {(one.key, one.image, one.names) for one in several} == {("key", "image.png", CLASSES)}


def test_ids_tell_images_contents_names_orders_and_examples_apart_but_not_paths():
    one = RankingRequest("key", "image.png", ("a", "b"))
    assert replace(one, image="moved.png").id == one.id
    assert (
        replace(one, contents=("1", "2", "3"), examples=("a.png", "b.png")).id
        == replace(one, contents=("1", "2", "3"), examples=("moved/a.png", "moved/b.png")).id
    )
    others = [
        replace(one, key="other"),
        replace(one, contents=("1",)),
        replace(one, contents=("2",)),
        replace(one, contents=("1", "2", "3"), examples=("a.png", "b.png")),
        replace(one, contents=("1", "2", "4"), examples=("a.png", "b.png")),
        replace(one, names=("b", "a")),
        replace(one, names=("a",)),
        replace(one, shuffle=1),
        replace(one, examples=("a.png", "b.png")),
        replace(one, examples=("a.png", "c.png")),
    ]
    assert len({question.id for question in [one, *others]}) == 11


def test_examples_stand_behind_the_image_in_the_order_shown(tmp_path):
    files = {}
    for number, name in enumerate(["image", *CLASSES]):
        files[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", (4, 4), (number, 0, 0)).save(files[name])
    question = RankingRequest("key", files["image"], CLASSES, examples=tuple(files[name] for name in CLASSES))
    seen = [picture.getpixel((0, 0))[0] for picture in question.images()]
    assert seen == [0, *(1 + place for place in question.shown)]


def test_a_picture_that_changed_after_the_data_set_was_read_is_named(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(file)
    image, *examples = map(str, files)
    question = RankingRequest(
        "key", image, CLASSES[:2], examples=tuple(examples), contents=tuple(map(file_hash, files))
    )
    assert len(question.images()) == 3
    for file in files:
        whole = file.read_bytes()
        Image.new("RGB", (4, 4), (9, 9, 9)).save(file)
        with pytest.raises(UserError, match=rf"{file.name}: has changed since the data set was read"):
            question.images()
        file.write_bytes(whole)


def test_an_image_in_memory_is_taken_as_it_is():
    assert open_request_image(Image.new("L", (3, 2), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_a_missing_image_and_one_that_does_not_decode_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.png: no such image"):
        open_request_image(str(tmp_path / "none.png"))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image: no known image format"):
        open_request_image(str(tmp_path / "bad.png"))
