"""RAF-DB: the list of splits and emotions, and the aligned faces."""

import pytest

from data_prep.datasets.raf_db import NAMES, SOURCE


@pytest.fixture
def base(tmp_path, draw_picture):
    folder, lines = tmp_path / "data" / "raf-db" / "basic", []
    for split, count in (("train", 4), ("test", 1)):
        for emotion in range(1, 8):
            for image in range(count):
                name = f"{split}_{10 * emotion + image:05d}"
                draw_picture(folder / "Image" / "aligned" / f"{name}_aligned.jpg", 100 * emotion + image)
                lines.append(f"{name}.jpg {emotion}")
    (folder / "EmoLabel").mkdir()
    (folder / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))
    return folder


def test_the_seven_emotions_are_read(base, read_named, tmp_path):
    dataset = read_named("raf_db", tmp_path / "data")
    assert dataset.names == NAMES
    assert NAMES[3] == "happiness"
    happy = [s.path.split("/")[-1] for s in dataset.parts["test"] if s.label == 3]
    assert happy == ["test_00040_aligned.jpg"]
    assert [len(dataset.parts[part]) for part in ("test_memory", "val", "train")] == [28, 7, 21]
    assert read_named("raf_db", base) == dataset


def test_malformed_lists_and_missing_images_raise_with_their_path(base, error_message):
    list_file = base / "EmoLabel" / "list_patition_label.txt"
    intact = list_file.read_text()
    for line in ("train_1.jpg 8", "other_1.jpg 1", "train_1.jpg happy"):
        list_file.write_text(line)
        assert f"{list_file}: '{line}' should be like 'train_00001.jpg 5'" in error_message("raf_db", base)
    list_file.write_text(intact)
    (base / "Image/aligned/train_00010_aligned.jpg").unlink()
    assert "train_00010_aligned.jpg: no such image" in error_message("raf_db", base)
    list_file.unlink()
    assert SOURCE in error_message("raf_db", base)
