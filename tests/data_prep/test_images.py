"""Images as a viewer shows them, or a reason why not; nothing a decoder meets gets further than that."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageColor

from data_prep.datasets.dataset import digests
from data_prep.images import MOST_PIXELS, ImageError, open_image


def saved(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def quarters() -> Image.Image:
    """Red, green over blue, white: 40 by 20, so that a turn shows."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:10, :20], pixels[:10, 20:], pixels[10:, :20], pixels[10:, 20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    return Image.fromarray(pixels)


def corner(image: Image.Image) -> tuple:
    return image.getpixel((2, 2))


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(data, "some.jpg")
    assert str(caught.value).startswith("some.jpg: not readable as an image: ")
    return caught.value.reason


def test_a_plain_picture_keeps_every_pixel():
    assert np.array_equal(np.asarray(open_image(saved(quarters(), "PNG"))), np.asarray(quarters()))


@pytest.mark.parametrize(
    ("orientation", "size", "first"),
    [(1, (40, 20), "red"), (3, (40, 20), "white"), (6, (20, 40), "blue"), (8, (20, 40), "lime")],
)
def test_a_photograph_is_turned_as_the_camera_was_held(orientation, size, first):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(saved(quarters(), "JPEG", exif=exif, quality=100, subsampling=0))
    assert image.size == size
    assert np.abs(np.subtract(corner(image), ImageColor.getrgb(first))).max() < 12


def test_sixteen_bits_are_scaled_and_not_cut_off():
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = open_image(saved(Image.fromarray(grey), "PNG"))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image)[..., 0], np.round(grey / 257).astype(np.uint8))
    for order in (">u2", "<u2"):
        assert open_image(saved(Image.fromarray(grey.astype(order)), "TIFF")).tobytes() == image.tobytes()


def test_values_without_a_white_are_refused_with_what_to_do():
    assert "save it with 8 or 16 bits" in reason(saved(Image.fromarray(np.eye(4, dtype=np.float32)), "TIFF"))


def test_printing_colours_become_what_they_look_like():
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(np.subtract(corner(open_image(saved(inks, "JPEG", quality=100))), (255, 0, 0))).max() < 12
    # A profile that is no CMYK profile is left aside, as viewers do.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert corner(open_image(saved(inks, "JPEG", quality=100, icc_profile=profile)))[0] > 240


@pytest.mark.parametrize("alpha", [0, 255])
def test_transparency_shows_white_and_not_the_colour_hidden_below(alpha):
    expected = (255, 255, 255) if alpha == 0 else (200, 0, 0)
    assert corner(open_image(saved(Image.new("RGBA", (8, 8), (200, 0, 0, alpha)), "PNG"))) == expected
    grey = open_image(saved(Image.new("LA", (8, 8), (10, alpha)), "PNG"))
    assert corner(grey) == ((255, 255, 255) if alpha == 0 else (10, 10, 10))


def test_a_palette_with_transparency_shows_white_where_it_is_transparent():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (4, 0, 8, 8))
    for form in ("PNG", "GIF"):
        shown = open_image(saved(image, form, transparency=0))
        assert (shown.getpixel((0, 0)), shown.getpixel((6, 0))) == ((255, 255, 255), (0, 0, 200))


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    assert corner(open_image(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))) == (255, 0, 0)


def test_one_pixel_and_sixty_megapixels_are_images():
    assert open_image(saved(Image.new("RGB", (1, 1)), "PNG")).size == (1, 1)
    assert open_image(saved(Image.new("L", (7500, 8000)), "PNG", compress_level=1)).size == (7500, 8000)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = saved(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 100_000
    assert f"{MOST_PIXELS:,} pixels" in reason(bomb)


def test_what_is_no_whole_image_has_a_reason():
    whole = saved(quarters(), "JPEG", quality=100)
    assert reason(b"") == "empty file"
    assert reason(b"no picture") == "no known image format"
    assert reason(whole[:-100]) == "truncated"


@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]), st.data())
@settings(max_examples=150, deadline=None)
def test_damage_of_any_kind_gives_a_picture_or_a_reason(form, data):
    whole = bytearray(saved(quarters(), form))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        assert open_image(cut, "damaged").mode == "RGB"
    except ImageError as error:
        assert error.reason


def test_what_is_skipped_is_listed_with_path_and_reason(tmp_path, draw_picture, caplog):
    import json

    files = [draw_picture(tmp_path / "0.png", 0), tmp_path / "1.jpg", tmp_path / "2.png"]
    files[1].write_bytes(b"")
    files[2].write_bytes(saved(Image.new("1", (20_000, 20_000)), "PNG"))
    found = digests(files, tmp_path / "cache", "skip")
    assert [digest is None for digest in found] == [False, True, True]
    (listing,) = (tmp_path / "cache").glob("skipped-*.jsonl")
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    assert [line["path"] for line in lines] == [str(file) for file in files[1:]]
    assert lines[0]["reason"] == "empty file"
    assert "2 images that cannot be shown" in caplog.text
    assert str(listing) in caplog.text
