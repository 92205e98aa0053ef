"""FGVC-Aircraft: the official lists in their order, from each supported folder."""

import pytest

from data_prep.datasets.fgvc_aircraft import FOLDERS, SOURCE

VARIANTS = ("707-320", "Falcon 900")


@pytest.fixture
def make(tmp_path, draw_picture):
    def write(folder=FOLDERS[0]):
        base, number = tmp_path / "data" / folder, 0
        for split, count in (("train", 3), ("val", 2), ("test", 1)):
            lines = []
            for variant in VARIANTS:
                for _ in range(count):
                    number += 1
                    draw_picture(base / "images" / f"{number:07d}.jpg", number)
                    lines.append(f"{number:07d} {variant}")
            (base / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
        (base / "variants.txt").write_text("\n".join(VARIANTS) + "\n")
        return base

    return write


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_official_lists_are_read(make, read_named, tmp_path, folder):
    make(folder)
    dataset = read_named("fgvc_aircraft", tmp_path / "data")
    assert dataset.names == VARIANTS
    assert dataset.templates == ("a photo of a {}, a type of aircraft.",)
    assert [(s.path[-11:], s.label) for s in dataset.parts["test"]] == [("0000011.jpg", 0), ("0000012.jpg", 1)]
    assert [len(dataset.parts[part]) for part in ("train", "val", "test_memory")] == [6, 4, 6]


def test_missing_images_and_malformed_lists_raise_with_their_path(make, error_message):
    base = make()
    (base / "images" / "0000011.jpg").unlink()
    assert "0000011.jpg: no such image" in error_message("fgvc_aircraft", base)
    list_file = base / "images_variant_val.txt"
    list_file.write_text("0000007 Concorde\n")
    message = error_message("fgvc_aircraft", base)
    assert f"{list_file}: 'Concorde' is not in variants.txt" in message
    assert SOURCE in message
    list_file.write_text("0000007\n")
    assert f"{list_file}, entry 1: '0000007' should be two fields" in error_message("fgvc_aircraft", base)
    list_file.unlink()
    assert f"{list_file}: no such file" in error_message("fgvc_aircraft", base)
    (base / "variants.txt").unlink()
    assert "variants.txt" in error_message("fgvc_aircraft", base)
