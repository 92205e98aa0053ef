"""Folders below class folders are classes of their own, or belong to the class above, by a rule that is stated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.reading.nesting import decide_nesting


@pytest.mark.parametrize(
    ("folders", "labels"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["Panthera/leo", "Panthera/tigris", "Felis/catus"], ["Panthera/leo", "Panthera/tigris", "Felis/catus"]),
        (["cat/2023", "cat/2024", "dog/2022"], ["cat", "cat", "dog"]),  # years
        (["cat/day", "cat/night", "dog/day"], ["cat", "cat", "dog"]),  # a name that several classes have
        (["cat/Day", "cat/night", "dog/day "], ["cat", "cat", "dog"]),
        (["cat", "cat/kitten", "dog/puppy"], ["cat", "cat", "dog"]),  # images at the top
        (["cat/cat_photos", "dog/dog_photos"], ["cat", "dog"]),
        (["pictures/cat", "pictures/dog"], ["cat", "dog"]),  # a folder above the classes
        (
            ["a/b/Felis/catus", "a/b/Felis/silvestris", "a/b/Lynx/lynx"],
            ["Felis/catus", "Felis/silvestris", "Lynx/lynx"],
        ),
    ],
)
def test_the_folders_that_users_mean_are_the_classes(folders, labels):
    parts = [tuple(folder.split("/")) for folder in folders]
    nesting = decide_nesting(parts, "auto")
    assert [nesting.label(folder) for folder in parts] == labels
    assert bool(nesting.rule) == any("/" in folder for folder in folders)


def test_the_rule_and_its_alternative_are_stated():
    parts = [("cat", "2023"), ("cat", "2024"), ("dog", "2023")]
    assert decide_nesting(parts, "auto").rule == (
        "images in sub-folders belong to the class of the folder at the top: those in cat/2023 are cat; with "
        "data.class_folders=deepest each folder with images is a class"
    )
    deepest = decide_nesting(parts, "deepest")
    assert deepest.rule == (
        "the 3 folders that hold images are the classes, such as cat/2023; with data.class_folders=top they are the 2 "
        "at the top"
    )
    assert deepest.label(("cat", "2023")) == "cat/2023"


FOLDERS = st.sets(st.lists(st.sampled_from(["a", "b", "B", "c", "1"]), min_size=1, max_size=3).map(tuple), min_size=1)


@given(FOLDERS, st.sampled_from(["auto", "top", "deepest"]))
def test_deepest_folders_have_distinct_names_and_others_their_top_folders(folders, setting):
    nesting = decide_nesting(folders, setting)
    labels = {folder: nesting.label(folder) for folder in folders}
    if nesting.deepest:
        assert setting != "top" and len(set(labels.values())) == len(folders) and all(labels.values())
    else:
        assert labels == {folder: folder[0] for folder in folders}
        assert setting != "deepest" or not nesting.rule
