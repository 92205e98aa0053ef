"""Images as a viewer shows them, or a reason why not; nothing a decoder meets gets further than that."""

import io
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageColor

from data_prep.core.images import MOST_ELONGATED, MOST_PIXELS, ImageError, open_image, shown_size
from data_prep.reading.dataset import digests


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


def as_exif(*entries: bytes) -> bytes:
    """An EXIF block of raw entries: tag, type, count and four bytes each."""
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


TURNED = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)


def test_a_picture_is_shown_whatever_its_exif_block_holds():
    """Seen in photographs of cameras and editors: numbers of wrong types, offsets outside, heads twice."""
    odd = {
        "text for a resolution": as_exif(TURNED, struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")),
        "bytes for a resolution": as_exif(TURNED, struct.pack("<HHI4s", 0x011A, 7, 4, b"abcd")),
        "a fraction for a text": as_exif(struct.pack("<HHIf", 0x010F, 11, 1, 1.5), TURNED),
        "a fraction for a number": as_exif(TURNED, struct.pack("<HHIf", 0x0128, 11, 1, 1.5)),
    }
    wanted = quarters().transpose(Image.Transpose.ROTATE_270)
    for what, block in odd.items():
        shown = open_image(saved(quarters(), "JPEG", exif=block, quality=100, subsampling=0))
        assert shown.size == wanted.size, what
        assert np.abs(np.subtract(np.asarray(shown, int), np.asarray(wanted, int))).max() < 12, what
    for block in (b"Exif\0\0", b"Exif\0\0garbage", as_exif(TURNED)[:20], as_exif(TURNED).replace(b"II*", b"II#")):
        for form in ("JPEG", "WEBP", "PNG"):
            assert open_image(saved(quarters(), form, exif=block)).size == (40, 20)


@given(st.sampled_from(["JPEG", "WEBP", "PNG", "TIFF"]), st.data())
@settings(max_examples=100, deadline=None)
def test_no_exif_block_keeps_whole_pixels_from_being_shown(form, data):
    tags = st.sampled_from([0x0112, 0x010F, 0x011A, 0x0128, 0x8769, 0x8825, 0xA005])
    entry = st.builds(
        struct.pack, st.just("<HHI4s"), tags, st.integers(0, 13), st.integers(0, 9), st.binary(max_size=4)
    )
    entries = sorted(data.draw(st.lists(entry, min_size=1, max_size=4)), key=lambda one: struct.unpack("<H", one[:2]))
    if form == "TIFF":
        whole = bytearray(saved(quarters(), form))
        (place,) = struct.unpack_from("<I", whole, 4)
        (count,) = struct.unpack_from("<H", whole, place)
        kept = [bytes(whole[place + 2 + 12 * n : place + 14 + 12 * n]) for n in range(count)]
        own = {one[:2] for one in kept}
        kept = sorted(
            kept + [one for one in entries if one[:2] not in own], key=lambda one: struct.unpack("<H", one[:2])
        )
        struct.pack_into("<I", whole, 4, len(whole))
        file = bytes(whole) + struct.pack("<H", len(kept)) + b"".join(kept) + bytes(4)
    else:
        file = saved(quarters(), form, exif=as_exif(*entries))
    try:
        Image.open(io.BytesIO(file)).close()
    except Image.UnidentifiedImageError:  # a TIFF's tags say where its pixels lie
        return
    assert sorted(open_image(file).size) == [20, 40]
    assert shown_size(file) == open_image(file).size


def test_a_photograph_whose_list_of_further_pictures_is_damaged_shows_its_first():
    both = saved(quarters(), "MPO", save_all=True, append_images=[quarters()], quality=100)
    start, refused = both.index(b"MPF\0"), 0
    for place in range(start + 4, start + 80):
        damaged = both[:place] + bytes([both[place] ^ 0xFF]) + both[place + 1 :]
        try:
            Image.open(io.BytesIO(damaged)).close()
        except Image.UnidentifiedImageError:
            refused += 1
        assert open_image(damaged).size == (40, 20)
    assert refused


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
    for form in ("JPEG", "PNG", "TIFF", "WEBP"):
        file = saved(quarters(), form, exif=exif)
        assert open_image(file).size == shown_size(file) == size


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


def in_many_modes() -> dict[str, bytes]:
    """Files of kinds that a plain conversion shows otherwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = quarters().quantize(4)
    deep = np.linspace(0, 65535, 800).astype(np.uint16).reshape(20, 40)
    clear = quarters()
    clear.putalpha(Image.linear_gradient("L").resize((40, 20)))
    return {
        "turned": saved(quarters(), "JPEG", exif=exif),
        "turned TIFF": saved(quarters(), "TIFF", exif=exif),
        "16 bits": saved(Image.fromarray(deep), "PNG"),
        "alpha": saved(clear, "PNG"),
        "palette": saved(palette, "PNG", transparency=1),
        "grey and alpha": saved(clear.convert("LA"), "PNG"),
        "print": saved(quarters().convert("CMYK"), "JPEG"),
        "two colours": saved(quarters().convert("1"), "PNG"),
        "animation": saved(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
    }


def test_a_picture_in_memory_is_shown_as_its_file_and_stays_as_it_was():
    for what, file in in_many_modes().items():
        wanted = open_image(file)
        held = Image.open(io.BytesIO(file))
        assert np.array_equal(open_image(held), wanted), what
        before = (held.mode, held.size, held.tobytes(), dict(held.info))
        shown = open_image(held)
        assert np.array_equal(shown, wanted), what
        assert (held.mode, held.size, held.tobytes(), dict(held.info)) == before, what
        assert np.array_equal(open_image(shown), wanted), what  # not turned twice
    with pytest.raises(ImageError, match="picture 3: not readable as an image: values of mode F"):
        open_image(Image.new("F", (4, 4)), "picture 3")
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 4)))


def test_large_pictures_are_converted_in_strips_to_the_same_pixels(monkeypatch):
    whole = {what: open_image(file) for what, file in in_many_modes().items()}
    monkeypatch.setattr("data_prep.core.images._STRIP", 130)  # three rows
    for what, file in in_many_modes().items():
        assert np.array_equal(open_image(file), whole[what]), what


def test_a_strip_is_refused_before_a_model_resizes_it():
    for size in ((MOST_ELONGATED, 1), (2, 2 * MOST_ELONGATED)):
        assert open_image(saved(Image.new("RGB", size), "PNG")).size == size
    for size in ((40_000, 2), (1, MOST_ELONGATED + 1)):
        file = saved(Image.new("RGB", size), "PNG")
        assert reason(file) == "more than 200 times as long as wide; crop or pad it"
        for refused in (lambda: open_image(Image.new("RGB", size)), lambda: shown_size(file)):  # noqa: B023
            with pytest.raises(ImageError, match="200 times as long as wide"):
                refused()


def test_a_picture_whose_decoder_needs_too_much_memory_is_refused_by_its_header():
    small = bytearray(saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True))
    struct.pack_into(">HH", small, small.index(b"\xff\xc2") + 5, 13_000, 13_000)
    assert reason(bytes(small)).startswith("decoding it takes more than 1.5 GiB")


def test_one_pixel_and_sixty_megapixels_are_images():
    assert open_image(saved(Image.new("RGB", (1, 1)), "PNG")).size == (1, 1)
    assert open_image(saved(Image.new("L", (7500, 8000)), "PNG", compress_level=1)).size == (7500, 8000)


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = saved(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 100_000
    assert f"{MOST_PIXELS:,} pixels" in reason(bomb)


def test_what_is_no_whole_image_has_a_reason(tmp_path):
    whole = saved(quarters(), "JPEG", quality=100)
    assert reason(b"") == "empty file"
    assert reason(b"no picture") == "no known image format"
    assert reason(whole[:-100]) == "truncated"
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path)
    assert caught.value.reason == "not a file"


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


def test_a_pipe_is_refused_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for look in (open_image, shown_size):
        with pytest.raises(ImageError, match=r"a\.png: not readable as an image: not a file"):
            look(tmp_path / "a.png")
