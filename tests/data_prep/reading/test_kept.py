"""A cached folder is used only if complete and unaltered; otherwise the error names the file and the remedy."""

import pytest

from data_prep.core.errors import UserError
from data_prep.core.manifests import hash_files
from data_prep.reading.dataset import check_images
from data_prep.reading.kept import confirm, seal


@pytest.fixture
def folder(tmp_path, draw_picture):
    for number in range(3):
        draw_picture(tmp_path / "kept" / f"{number}.png", number)
    (tmp_path / "kept" / "classes.csv").write_text("number,name\n0,cat\n")
    seal(tmp_path / "kept", hash_files(tmp_path / "kept"))
    return tmp_path / "kept"


def test_images_of_an_unaltered_folder_are_hashed_only_once(folder, tmp_path, caplog):
    caplog.set_level("INFO", "data_prep")
    for _ in range(2):
        confirm(folder, tmp_path / "cache")
    check_images([folder / f"{number}.png" for number in range(3)], tmp_path / "cache")
    assert caplog.text.count("checking 3 images") == 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("1.png", lambda path: path.unlink()),
        ("1.png", lambda path: path.write_bytes(path.with_name("2.png").read_bytes())),
        ("1.png", lambda path: path.write_bytes(b"not an image")),
        ("classes.csv", lambda path: path.write_text("number,name\n0,dog\n")),
        ("contents.json", lambda path: path.write_text(path.read_text().replace("1.png", "7.png"))),
    ],
)
def test_a_missing_or_altered_file_raises_with_its_path_and_a_remedy(folder, tmp_path, name, change):
    confirm(folder, tmp_path / "cache")
    change(folder / name)
    with pytest.raises(UserError) as caught:
        confirm(folder, tmp_path / "cache")
    assert str(folder / name) in str(caught.value)
    assert f"delete {folder} to have it made again" in str(caught.value)
