"""Which folders count as classes and which files as images, by name and content; the rest is counted."""

import json
import logging
import os

import pytest
from PIL import Image

from data_prep.reading.finding import (
    class_folders,
    find_files,
    find_images,
    is_hidden_or_system_file,
    is_image_file,
    report_skipped,
)


def names(paths) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize(
    "name",
    [
        *(".DS_Store", "._0.jpg", ".ipynb_checkpoints", "__MACOSX", "Thumbs.db", "thumbs.db", "desktop.ini"),
        *("$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir", "#recycle", "Icon\r", "__pycache__"),
        *("RECYCLER", "PaxHeader", "PaxHeaders.123"),
        *("0.jpg~", "0.jpg_original", "0.png.bak", "0.jpg.part", "0.jpg.crdownload"),
    ],
)
def test_files_left_by_operating_systems_and_programs_are_recognised(name):
    assert is_hidden_or_system_file(name)


@pytest.mark.parametrize("name", ["cat", "0.jpg", "lost property", "original", "a~b", "$ bill", "@home", "trash"])
def test_other_names_are_not_system_files(name):
    assert not is_hidden_or_system_file(name)


@pytest.mark.parametrize("name", ["mona_lisa_original", "spare.part", "cat~", "v1.tmp"])
def test_a_folder_named_like_an_editors_backup_can_be_a_class(tmp_path, name):
    (tmp_path / name / name).mkdir(parents=True)
    (tmp_path / name / name / "0.png").write_bytes(b"")
    (tmp_path / name / "0.png_original").write_bytes(b"")
    assert names(class_folders(tmp_path).files) == [name]
    findings = find_images(tmp_path / name)
    assert (names(findings.files), names(path for path, _ in findings.passed)) == (["0.png"], ["0.png_original"])


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.jfif", "JPEG"), ("a", "PNG"), ("a.heic", "JPEG"), ("a.jpg_large", "JPEG"), ("a.avif", "AVIF")],
)
def test_an_image_is_recognised_by_its_suffix_or_its_content(tmp_path, name, form):
    Image.new("RGB", (8, 8)).save(tmp_path / name, form)
    assert is_image_file(tmp_path / name)


@pytest.mark.parametrize(("suffix", "form"), [("tga", "TGA"), ("dds", "DDS"), ("pcx", "PCX"), ("ico", "ICO")])
def test_an_image_without_a_known_signature_is_recognised_by_its_suffix(tmp_path, suffix, form):
    Image.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}", form)
    assert is_image_file(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("form", ["WEBP", "GIF", "AVIF", "JPEG2000"])
def test_an_image_without_suffix_is_recognised_by_its_content(tmp_path, form):
    Image.new("RGB", (8, 8)).save(tmp_path / "picture", form)
    assert is_image_file(tmp_path / "picture")


def test_other_files_are_not_images_and_a_pipe_is_not_opened(tmp_path):
    for name, data in (("a.txt", b"P1 is a text"), ("empty", b""), ("a.npy", b"\x93NUMPY")):
        (tmp_path / name).write_bytes(data)
        assert not is_image_file(tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    assert not is_image_file(tmp_path / "pipe")


def test_links_to_folders_are_followed_once_and_never_upwards(tmp_path, draw_picture):
    for seed, path in enumerate(("store/a/0.png", "data/cat/1.png", "data/dog/2.png")):
        draw_picture(tmp_path / path, seed)
    cat = tmp_path / "data" / "cat"
    (cat / "linked").symlink_to(tmp_path / "store" / "a")
    (cat / "again").symlink_to(tmp_path / "store" / "a")
    (cat / "up").symlink_to(tmp_path / "data")
    (cat / "self").symlink_to(".")
    (cat / "gone").symlink_to("nowhere")
    findings = find_images(cat)
    assert names(findings.files) == ["1.png", "0.png"]
    reasons = {path.name: reason for path, reason in findings.passed}
    assert reasons.keys() == {"linked", "up", "self", "gone"}
    assert reasons["up"] == "link to a folder already read or above" and reasons["gone"] == "not an image"


def test_everything_with_an_image_suffix_is_found_even_if_broken(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.png").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "text.jpg").write_text("text")
    assert names(find_images(tmp_path).files) == ["broken.png", "text.jpg", "loop.png", "pipe.jpg"]


def test_class_folders_are_distinguished_from_other_entries(tmp_path, draw_picture):
    draw_picture(tmp_path / "data" / "loose.png", 0)
    (tmp_path / "data" / "README.md").write_text("text")
    for name in ("cat", "__MACOSX", ".cache", "lost+found"):
        (tmp_path / "data" / name).mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "data" / "cat")
    (tmp_path / "data" / "top").symlink_to(tmp_path)
    (tmp_path / "data" / "dog").symlink_to("nowhere")
    findings = class_folders(tmp_path / "data")
    assert names(findings.files) == ["cat", "linked"]
    reasons = {path.name: reason for path, reason in findings.passed}
    assert reasons["loose.png"] == "image outside of a class"
    assert reasons["README.md"] == "not an image"
    assert (reasons["top"], reasons["dog"]) == ("link to a folder above", "broken link")
    assert reasons["__MACOSX"] == reasons[".cache"] == reasons["lost+found"] == "hidden or a system file"


def test_archives_are_regular_files_and_are_found_through_links(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "0.tar").write_bytes(b"")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "store")
    os.mkfifo(tmp_path / "data" / "1.tar")
    (tmp_path / "data" / "2.tar").mkdir()
    (tmp_path / "data" / "._3.tar").write_bytes(b"")
    findings = find_files(tmp_path / "data", ".tar")
    assert names(findings.files) == ["0.tar"]
    assert [(path.name, reason) for path, reason in findings.passed] == [("1.tar", ".tar that is not a regular file")]


def test_entries_passed_over_are_counted_and_listed(tmp_path, caplog):
    caplog.set_level(logging.INFO, "data_prep")
    odd = tmp_path / os.fsdecode(b"k\xe4tzchen")
    assert report_skipped([(odd, "link to a folder above"), (tmp_path / "a", "not an image")], tmp_path / "cache") == 2
    assert "passed over 2 files and folders (1 link to a folder above; 1 not an image)" in caplog.text
    assert "k\\udce4tzchen': link to a folder above" in caplog.text
    (listed,) = (tmp_path / "cache").glob("passed-over-*.jsonl")
    first, second = map(json.loads, listed.read_text(encoding="utf-8").splitlines())
    assert first == {"path": f"{tmp_path}/k\\xe4tzchen", "reason": "link to a folder above"}
    assert second["path"] == str(tmp_path / "a")
    assert report_skipped([], tmp_path / "cache") == 0


def test_entries_passed_over_are_counted_by_reason_and_suffix_and_logged_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "data_prep")
    passed = [(tmp_path / name, "not an image") for name in ("a.xmp", "b.txt", "c.XMP", "README")]
    for _ in range(2):
        report_skipped([*passed, (tmp_path / ".cache", "hidden or a system file")], tmp_path / "cache")
    counts = "4 not an image: 2 .xmp, 1 .txt; 1 hidden or a system file"
    assert caplog.text.count(f"passed over 5 files and folders ({counts})") == 1
