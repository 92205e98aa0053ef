"""Images of every kind that programs give are opened alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.embedding import image_inputs
from data_prep.embedding.image_inputs import OpenedImage, open_batches, open_input


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


@pytest.fixture
def file(values, tmp_path) -> Path:
    Image.fromarray(values).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_an_image_is_the_same_whatever_it_comes_in(values, file):
    with open(file, "rb") as binary:
        as_files = [open_input(given) for given in (file, str(file), file.read_bytes(), binary)]
    as_files.append(open_input(io.BytesIO(file.read_bytes())))
    assert {opened.key for opened in as_files} == {file_hash(file)}
    as_pixels = [open_input(given) for given in (values, values[:, ::-1][:, ::-1], Image.fromarray(values))]
    assert len({opened.key for opened in as_pixels}) == 1
    for opened in (*as_files, *as_pixels):
        assert np.array_equal(np.asarray(opened.image), values) and open_input(opened) is opened


def test_grey_and_transparent_arrays_are_the_images_that_they_would_be_as_files(values, tmp_path):
    grey, alpha = values[..., 0], np.dstack([values, np.full(values.shape[:2], 128, np.uint8)])
    for array in (grey, alpha):
        Image.fromarray(array).save(tmp_path / "b.png")
        assert np.array_equal(open_input(array).image, open_input(tmp_path / "b.png").image)
    assert open_input(grey[..., None]).key == open_input(grey).key


def test_what_is_no_image_is_named(values, file, tmp_path):
    for given, message in (
        (tmp_path / "none.png", "none.png: no such image"),
        (tmp_path, "not a file"),
        (b"", "image 3: .*empty file"),
        (file.read_bytes()[:60], "image 3: not readable"),
        (values[..., :2], r"image 3: an array of uint8, \[7, 5, 2\]; give \[height, width\], or .* 3 \(RGB\) or 4"),
        (values[0, 0], r"an array of uint8, \[3\]; give \[height, width\]"),
        (values[:0], r"an array of uint8, \[0, 5, 3\]; it has no pixels"),
        (values / 255, r"an array of float64, \[7, 5, 3\]; scale values of 0 to 1 to uint8, \(255 \* a\)"),
        (values.astype(np.uint16), "an array of uint16.*; convert it to uint8"),
        (io.StringIO("text"), "image 3: a file that is open for text; open it with mode 'rb'"),
        (7, "image 3: int; give a path"),
    ):
        with pytest.raises(UserError, match=message):
            open_input(given, "image 3")


def test_batches_end_after_a_number_of_images_or_of_bytes(values, monkeypatch):
    given = [values, b"no", values, values, values]
    batches = list(open_batches(given, 2, skip=True))
    kinds = [[isinstance(image, OpenedImage) for image in batch] for batch in batches]
    assert kinds == [[True, False], [True, True], [True]] and batches[0][1].startswith("image 1: ")
    monkeypatch.setattr(image_inputs, "MAX_DECODED_BYTES", values.nbytes)
    assert [len(batch) for batch in open_batches(given, 5, skip=True)] == [1, 2, 1, 1]
    with pytest.raises(UserError, match="image 1: not readable"):
        list(open_batches(given, 2, skip=False))
