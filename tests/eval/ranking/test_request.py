"""Ranking requests: the order shown, their ids, and their images."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.settings.loading import load_recipe
from eval.ranking.request import RankingRequest, open_request_image, select_descriptions, shuffled_requests

CLASSES = tuple(f"class {i}" for i in range(7))


@settings(max_examples=60, deadline=None)
@given(st.permutations(CLASSES), st.text(max_size=10), st.integers(0, 3))
def test_the_order_shown_does_not_depend_on_the_order_retrieved(names, key, shuffle):
    def shown(names) -> list[str]:
        return RankingRequest(key, "", tuple(names), shuffle).shown_names

    assert shown(names) == shown(sorted(names))
    assert sorted(shown(names)) == sorted(names)


@pytest.mark.parametrize("shuffle", [0, 3])
def test_the_order_shown_differs_between_images_and_puts_each_name_first_equally_often(shuffle):
    first = [RankingRequest(str(key), "", CLASSES[:5], shuffle).shown[0] for key in range(1000)]
    assert all(140 < first.count(index) < 260 for index in range(5))


def test_shuffles_are_different_orders_of_the_same_request_and_the_first_is_the_request_itself():
    request = RankingRequest("key", "image.png", CLASSES)
    shuffled = shuffled_requests(request, 6)
    assert shuffled[0] == request
    assert len({tuple(r.shown_names) for r in shuffled}) == 6
    assert {(r.key, r.image, r.names) for r in shuffled} == {("key", "image.png", CLASSES)}


def test_ids_depend_on_image_contents_names_order_and_examples_but_not_on_paths():
    base = RankingRequest("key", "image.png", ("a", "b"))
    assert replace(base, image="moved.png").id == base.id
    assert (
        replace(base, contents=("1", "2", "3"), examples=("a.png", "b.png")).id
        == replace(base, contents=("1", "2", "3"), examples=("moved/a.png", "moved/b.png")).id
    )
    others = [
        replace(base, key="other"),
        replace(base, contents=("1",)),
        replace(base, contents=("2",)),
        replace(base, contents=("1", "2", "3"), examples=("a.png", "b.png")),
        replace(base, contents=("1", "2", "4"), examples=("a.png", "b.png")),
        replace(base, names=("b", "a")),
        replace(base, names=("a",)),
        replace(base, shuffle=1),
        replace(base, examples=("a.png", "b.png")),
        replace(base, examples=("a.png", "c.png")),
        replace(base, descriptions=("one", "")),
        replace(base, descriptions=("", "one")),
    ]
    assert len({request.id for request in [base, *others]}) == 13


def test_descriptions_are_shown_in_the_order_of_the_names_and_selected_where_the_mode_shows_candidates():
    names, texts = ("a", "b", "c", "d"), {"a": "first", "d": "last", "e": "other"}
    recipes = {
        (mode, on): load_recipe(["recipe=ranker_lora", f"ranker.mode={mode}", f"ranker.descriptions={on}"])
        for mode in ("letters", "constrained", "likelihood")
        for on in (True, False)
    }
    selected = {key: select_descriptions(recipe, names, texts) for key, recipe in recipes.items()}
    assert {key for key, row in selected.items() if row} == {("letters", True), ("constrained", True)}
    assert select_descriptions(recipes["letters", True], ("b", "c"), texts) == ()
    request = RankingRequest("key", "image.png", names, 3, descriptions=selected["letters", True])
    shown = dict(zip(request.shown_names, request.shown_descriptions, strict=True))
    assert shown == {"a": "first", "b": "", "c": "", "d": "last"}
    assert request.shown_names != list(names) and RankingRequest("key", "image.png", names).shown_descriptions == []


def test_examples_follow_the_image_in_the_order_shown(tmp_path):
    files = {}
    for index, name in enumerate(["image", *CLASSES]):
        files[name] = str(tmp_path / f"{name}.png")
        Image.new("RGB", (4, 4), (index, 0, 0)).save(files[name])
    request = RankingRequest("key", files["image"], CLASSES, examples=tuple(files[name] for name in CLASSES))
    colours = [image.getpixel((0, 0))[0] for image in request.images()]
    assert colours == [0, *(1 + index for index in request.shown)]


def test_an_image_that_changed_after_the_data_set_was_read_is_named(tmp_path):
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(file)
    image, *examples = map(str, files)
    request = RankingRequest("key", image, CLASSES[:2], examples=tuple(examples), contents=tuple(map(file_hash, files)))
    assert len(request.images()) == 3
    for file in files:
        original = file.read_bytes()
        Image.new("RGB", (4, 4), (9, 9, 9)).save(file)
        with pytest.raises(UserError, match=rf"{file.name}: has changed since the data set was read"):
            request.images()
        file.write_bytes(original)


def test_an_image_in_memory_is_accepted():
    assert open_request_image(Image.new("L", (3, 2), 7)).getpixel((0, 0)) == (7, 7, 7)


def test_a_missing_image_and_one_that_does_not_decode_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.png: no such image"):
        open_request_image(str(tmp_path / "none.png"))
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UserError, match=r"bad\.png: not readable as an image: no known image format"):
        open_request_image(str(tmp_path / "bad.png"))
