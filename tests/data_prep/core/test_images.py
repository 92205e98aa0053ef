"""Images are decoded as a viewer displays them or rejected with a reason; no decoder error escapes."""

import importlib.util
import io
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageColor

from data_prep.core.images import MAX_ASPECT_RATIO, MOST_PIXELS, ImageError, display_size, open_image, read_format
from data_prep.reading.dataset import hash_images


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def quarters() -> Image.Image:
    """An image with red and green above blue and white, 40 by 20 pixels, so that a rotation is detectable."""
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


def test_a_plain_image_keeps_every_pixel():
    assert np.array_equal(np.asarray(open_image(encode(quarters(), "PNG"))), np.asarray(quarters()))


def as_exif(*entries: bytes) -> bytes:
    """Builds an EXIF block from raw entries of tag, type, count and four bytes each."""
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)


ROTATED = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)


def test_an_image_is_decoded_whatever_its_exif_block_contains():
    """Seen in photographs of cameras and editors: numbers of wrong types, offsets out of range, repeated headers."""
    malformed = {
        "text for a resolution": as_exif(ROTATED, struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0")),
        "bytes for a resolution": as_exif(ROTATED, struct.pack("<HHI4s", 0x011A, 7, 4, b"abcd")),
        "a fraction for a text": as_exif(struct.pack("<HHIf", 0x010F, 11, 1, 1.5), ROTATED),
        "a fraction for a number": as_exif(ROTATED, struct.pack("<HHIf", 0x0128, 11, 1, 1.5)),
    }
    expected = quarters().transpose(Image.Transpose.ROTATE_270)
    for kind, block in malformed.items():
        decoded = open_image(encode(quarters(), "JPEG", exif=block, quality=100, subsampling=0))
        assert decoded.size == expected.size, kind
        assert np.abs(np.subtract(np.asarray(decoded, int), np.asarray(expected, int))).max() < 12, kind
    for block in (b"Exif\0\0", b"Exif\0\0garbage", as_exif(ROTATED)[:20], as_exif(ROTATED).replace(b"II*", b"II#")):
        for file_format in ("JPEG", "WEBP", "PNG"):
            assert open_image(encode(quarters(), file_format, exif=block)).size == (40, 20)


@given(st.sampled_from(["JPEG", "WEBP", "PNG", "TIFF"]), st.data())
@settings(max_examples=100, deadline=None)
def test_no_exif_block_prevents_intact_pixels_from_being_decoded(file_format, data):
    tags = st.sampled_from([0x0112, 0x010F, 0x011A, 0x0128, 0x8769, 0x8825, 0xA005])
    entry = st.builds(
        struct.pack, st.just("<HHI4s"), tags, st.integers(0, 13), st.integers(0, 9), st.binary(max_size=4)
    )

    def tag_of(entry: bytes) -> tuple:
        return struct.unpack("<H", entry[:2])

    entries = sorted(data.draw(st.lists(entry, min_size=1, max_size=4)), key=tag_of)
    if file_format == "TIFF":
        tiff = bytearray(encode(quarters(), file_format))
        (offset,) = struct.unpack_from("<I", tiff, 4)
        (count,) = struct.unpack_from("<H", tiff, offset)
        directory = [bytes(tiff[offset + 2 + 12 * n : offset + 14 + 12 * n]) for n in range(count)]
        present = {existing[:2] for existing in directory}
        directory = sorted(directory + [added for added in entries if added[:2] not in present], key=tag_of)
        struct.pack_into("<I", tiff, 4, len(tiff))
        file = bytes(tiff) + struct.pack("<H", len(directory)) + b"".join(directory) + bytes(4)
    else:
        file = encode(quarters(), file_format, exif=as_exif(*entries))
    try:
        Image.open(io.BytesIO(file)).close()
    except Image.UnidentifiedImageError:  # the tags of a TIFF say where its pixels are
        return
    assert sorted(open_image(file).size) == [20, 40]
    assert display_size(file) == open_image(file).size


def test_a_photograph_whose_index_of_further_images_is_damaged_gives_its_first_image():
    mpo = encode(quarters(), "MPO", save_all=True, append_images=[quarters()], quality=100)
    start, rejected_by_pillow = mpo.index(b"MPF\0"), 0
    for position in range(start + 4, start + 80):
        damaged = mpo[:position] + bytes([mpo[position] ^ 0xFF]) + mpo[position + 1 :]
        try:
            Image.open(io.BytesIO(damaged)).close()
        except Image.UnidentifiedImageError:
            rejected_by_pillow += 1
        assert open_image(damaged).size == (40, 20)
    assert rejected_by_pillow


@pytest.mark.parametrize(
    ("orientation", "size", "colour"),
    [(1, (40, 20), "red"), (3, (40, 20), "white"), (6, (20, 40), "blue"), (8, (20, 40), "lime")],
)
def test_a_photograph_is_rotated_by_its_exif_orientation(orientation, size, colour):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_image(encode(quarters(), "JPEG", exif=exif, quality=100, subsampling=0))
    assert image.size == size
    assert np.abs(np.subtract(corner(image), ImageColor.getrgb(colour))).max() < 12
    for file_format in ("JPEG", "PNG", "TIFF", "WEBP"):
        file = encode(quarters(), file_format, exif=exif)
        assert open_image(file).size == display_size(file) == size


def test_sixteen_bit_values_are_scaled_and_not_clipped():
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = open_image(encode(Image.fromarray(grey), "PNG"))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image)[..., 0], np.round(grey / 257).astype(np.uint8))
    for order in (">u2", "<u2"):
        assert open_image(encode(Image.fromarray(grey.astype(order)), "TIFF")).tobytes() == image.tobytes()


def test_values_without_a_defined_white_are_rejected_with_a_remedy():
    assert "save it with 8 or 16 bits" in reason(encode(Image.fromarray(np.eye(4, dtype=np.float32)), "TIFF"))


def test_cmyk_is_converted_to_the_colours_that_it_represents():
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert np.abs(np.subtract(corner(open_image(encode(inks, "JPEG", quality=100))), (255, 0, 0))).max() < 12
    # A profile that is not a CMYK profile is ignored, as in viewers.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert corner(open_image(encode(inks, "JPEG", quality=100, icc_profile=profile)))[0] > 240


@pytest.mark.parametrize("alpha", [0, 255])
def test_transparent_pixels_become_white_and_not_their_hidden_colour(alpha):
    expected = (255, 255, 255) if alpha == 0 else (200, 0, 0)
    assert corner(open_image(encode(Image.new("RGBA", (8, 8), (200, 0, 0, alpha)), "PNG"))) == expected
    grey = open_image(encode(Image.new("LA", (8, 8), (10, alpha)), "PNG"))
    assert corner(grey) == ((255, 255, 255) if alpha == 0 else (10, 10, 10))


def test_transparent_palette_entries_become_white():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (4, 0, 8, 8))
    for file_format in ("PNG", "GIF"):
        decoded = open_image(encode(image, file_format, transparency=0))
        assert (decoded.getpixel((0, 0)), decoded.getpixel((6, 0))) == ((255, 255, 255), (0, 0, 200))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    assert corner(open_image(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))) == (255, 0, 0)


def files_in_many_modes() -> dict[str, bytes]:
    """Returns files that a plain ``convert("RGB")`` would decode differently."""
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = quarters().quantize(4)
    deep = np.linspace(0, 65535, 800).astype(np.uint16).reshape(20, 40)
    translucent = quarters()
    translucent.putalpha(Image.linear_gradient("L").resize((40, 20)))
    return {
        "turned": encode(quarters(), "JPEG", exif=exif),
        "turned TIFF": encode(quarters(), "TIFF", exif=exif),
        "16 bits": encode(Image.fromarray(deep), "PNG"),
        "alpha": encode(translucent, "PNG"),
        "palette": encode(palette, "PNG", transparency=1),
        "grey and alpha": encode(translucent.convert("LA"), "PNG"),
        "CMYK": encode(quarters().convert("CMYK"), "JPEG"),
        "two colours": encode(quarters().convert("1"), "PNG"),
        "animation": encode(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
    }


def test_an_image_in_memory_is_decoded_like_its_file_and_not_modified():
    for kind, file in files_in_many_modes().items():
        expected = open_image(file)
        in_memory = Image.open(io.BytesIO(file))
        assert np.array_equal(open_image(in_memory), expected), kind
        before = (in_memory.mode, in_memory.size, in_memory.tobytes(), dict(in_memory.info))
        decoded = open_image(in_memory)
        assert np.array_equal(decoded, expected), kind
        assert (in_memory.mode, in_memory.size, in_memory.tobytes(), dict(in_memory.info)) == before, kind
        assert np.array_equal(open_image(decoded), expected), kind  # not rotated twice
    with pytest.raises(ImageError, match="image 3: not readable as an image: values of mode F"):
        open_image(Image.new("F", (4, 4)), "image 3")
    with pytest.raises(ImageError, match="no pixels"):
        open_image(Image.new("RGB", (0, 4)))


def test_conversion_in_strips_gives_the_same_pixels(monkeypatch):
    at_once = {kind: open_image(file) for kind, file in files_in_many_modes().items()}
    monkeypatch.setattr("data_prep.core.images._STRIP", 130)  # three rows
    for kind, file in files_in_many_modes().items():
        assert np.array_equal(open_image(file), at_once[kind]), kind


def test_a_very_elongated_image_is_rejected():
    for size in ((MAX_ASPECT_RATIO, 1), (2, 2 * MAX_ASPECT_RATIO)):
        assert open_image(encode(Image.new("RGB", size), "PNG")).size == size
    for size in ((40_000, 2), (1, MAX_ASPECT_RATIO + 1)):
        file = encode(Image.new("RGB", size), "PNG")
        assert reason(file) == "more than 200 times as long as wide; crop or pad it"
        for open_it in (lambda: open_image(Image.new("RGB", size)), lambda: display_size(file)):  # noqa: B023
            with pytest.raises(ImageError, match="200 times as long as wide"):
                open_it()


def test_an_image_whose_decoder_needs_too_much_memory_is_rejected_by_its_header():
    small = bytearray(encode(Image.new("RGB", (64, 64)), "JPEG", progressive=True))
    struct.pack_into(">HH", small, small.index(b"\xff\xc2") + 5, 13_000, 13_000)
    assert reason(bytes(small)).startswith("decoding it takes more than 1.5 GiB")


def test_images_of_one_pixel_and_of_sixty_megapixels_are_accepted():
    assert open_image(encode(Image.new("RGB", (1, 1)), "PNG")).size == (1, 1)
    assert open_image(encode(Image.new("L", (7500, 8000)), "PNG", compress_level=1)).size == (7500, 8000)


def test_a_decompression_bomb_is_rejected_before_it_is_decoded():
    bomb = encode(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 100_000
    assert f"{MOST_PIXELS:,} pixels" in reason(bomb)


def test_an_unusable_image_is_rejected_with_a_reason(tmp_path):
    intact = encode(quarters(), "JPEG", quality=100)
    assert reason(b"") == "empty file"
    assert reason(b"not an image") == "no known image format"
    assert reason(intact[:-100]) == "truncated"
    with pytest.raises(ImageError) as caught:
        open_image(tmp_path)
    assert caught.value.reason == "not a file"


@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]), st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_gives_an_image_or_a_reason(file_format, data):
    file = bytearray(encode(quarters(), file_format))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    truncated = bytes(file[: data.draw(st.integers(1, len(file)))])
    try:
        assert open_image(truncated, "damaged").mode == "RGB"
    except ImageError as error:
        assert error.reason


def test_skipped_images_are_listed_with_path_and_reason(tmp_path, draw_picture, caplog):
    import json

    files = [draw_picture(tmp_path / "0.png", 0), tmp_path / "1.jpg", tmp_path / "2.png"]
    files[1].write_bytes(b"")
    files[2].write_bytes(encode(Image.new("1", (20_000, 20_000)), "PNG"))
    file_digests = hash_images(files, tmp_path / "cache", "skip")
    assert [digest is None for digest in file_digests] == [False, True, True]
    (listing,) = (tmp_path / "cache").glob("skipped-*.jsonl")
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    assert [line["path"] for line in lines] == [str(file) for file in files[1:]]
    assert lines[0]["reason"] == "empty file"
    assert "2 images that cannot be shown" in caplog.text
    assert str(listing) in caplog.text


def test_a_pipe_is_rejected_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for function in (open_image, display_size):
        with pytest.raises(ImageError, match=r"a\.png: not readable as an image: not a file"):
            function(tmp_path / "a.png")


HEIC = pytest.mark.skipif(importlib.util.find_spec("pillow_heif") is None, reason="needs pillow-heif")


def encode_heic(image: Image.Image, **options) -> bytes:
    import pillow_heif

    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95, **options)
    return file.getvalue()


@HEIC
def test_heic_is_decoded_as_it_is_displayed_and_in_a_new_process(tmp_path):
    sideways = Image.Exif()
    sideways[0x0112] = 6
    path = tmp_path / "IMG_1.HEIC"
    for exif, size, expected in ((None, (40, 20), (255, 0, 0)), (sideways.tobytes(), (20, 40), (0, 0, 255))):
        path.write_bytes(encode_heic(quarters(), **({"exif": exif} if exif else {})))
        decoded = open_image(path)
        assert decoded.size == display_size(path) == size and read_format(path) == "HEIF"
        assert np.abs(np.subtract(corner(decoded), expected)).max() < 20
    code = f"from data_prep.core.images import open_image; print(open_image({str(path)!r}).size)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "(20, 40)"
    assert reason(encode_heic(quarters())[:200])


@HEIC
def test_transparent_heic_is_on_a_white_background():
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert min(corner(open_image(encode_heic(image)))) > 245


def test_without_its_decoder_heic_and_avif_name_what_to_install(tmp_path):
    """In a process that can't import pillow-heif, and whose Pillow was built without AVIF."""
    (tmp_path / "a.heic").write_bytes(b"\0\0\0 ftypheic" + bytes(20))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.avif")
    code = """
import sys, pathlib
sys.modules["pillow_heif"] = None
from PIL import Image, features
Image.preinit(), Image.init()
for table in (Image.OPEN, Image.ID):
    table.pop("AVIF", None) if isinstance(table, dict) else table.remove("AVIF")
features.check = lambda name: False
from data_prep.core import images
images.importlib.util.find_spec = lambda name: None
for path in map(pathlib.Path, sys.argv[1:]):
    try:
        images.open_image(path)
    except images.ImageError as error:
        print(error.reason == images.missing_decoder(path), error.reason)
"""
    files = [str(tmp_path / name) for name in ("a.heic", "a.avif")]
    printed = subprocess.check_output([sys.executable, "-c", code, *files], text=True).splitlines()
    assert printed == [f"True {name}, which needs pip install 'rar-train[heic]'" for name in ("HEIC", "AVIF")]
