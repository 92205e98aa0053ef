"""Listing and opening the images to label, from every kind of input."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.embedding.regions import cut_regions
from data_prep.settings import RegionArgs
from eval.predict.inputs import check_inputs, list_items
from eval.predict.items import Item
from eval.predict.opening import ImageOpener
from tests.eval.predict.pictures import encoded, shield, write_shields


def listed(*inputs: Path, image_root: Path | None = None) -> tuple[list[Item], Counter]:
    left_out: Counter = Counter()
    check_inputs(inputs)
    return list(list_items(inputs, image_root, left_out)), left_out


def opened(items: list[Item]) -> list[Image.Image | str]:
    opener = ImageOpener(RegionArgs())
    images = [opener.open_or_reason(Item.from_line(item.to_line())) for item in items]
    return [image if isinstance(image, str) else image.image for image in images]


def assert_shows(images: list[Image.Image | str], numbers: list[int]) -> None:
    assert len(images) == len(numbers)
    for image, number in zip(images, numbers, strict=True):
        assert np.array_equal(np.asarray(image), np.asarray(shield(number))), (image, number)


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_is_listed_in_order_with_what_is_below_it(tmp_path):
    write_shields(tmp_path / "b", 12)
    (tmp_path / "a.png").write_bytes(encoded(50))
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(encoded(51))
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    items, left_out = listed(tmp_path)
    assert [Path(item.path).stem for item in items] == ["a", *(f"{n:06d}" for n in range(12))]
    assert left_out.total() == 3 and left_out["not an image"] == 1
    assert_shows(opened(items), [50, *range(12)])


def test_a_file_of_paths_is_relative_to_its_folder_and_may_name_what_is_missing(tmp_path):
    write_shields(tmp_path / "set", 2)
    lines = ["set/000/000001.png", "", str(tmp_path / "set" / "000" / "000000.png"), "set/gone.png"]
    (tmp_path / "list.txt").write_text("\ufeff" + "\r\n".join(lines))
    items, _ = listed(tmp_path / "list.txt")
    images = opened(items)
    assert_shows(images[:2], [1, 0])
    assert images[2] == "no such file or directory"


def test_the_images_of_a_shard_are_listed_without_reading_them(tmp_path):
    files = {"0/x.png": encoded(3), "0/x.json": b"{}", "0/x.cls": b"1", "0/y.JPG": b"not one", "0/._z.png": b"mac"}
    shard = write_shard(tmp_path / "a.tar", files)
    items, _ = listed(shard)
    assert [item.id for item in items] == ["0/x.png", "0/y.JPG"]
    images = opened(items)
    assert_shows(images[:1], [3])
    assert images[1] == "no known image format"
    shard.write_bytes(shard.read_bytes()[:900])
    assert opened(items)[0] == "the shard was cut short"
    with pytest.raises(UserError, match=r"a\.tar: not readable as a shard"):
        listed(shard)
    (tmp_path / "b.tar.gz").touch()
    with pytest.raises(UserError, match=r"b\.tar\.gz: is compressed"):
        listed(tmp_path / "b.tar.gz")


@pytest.mark.parametrize("layout", ["records", "bytes", "paths"])
def test_parquet_holds_bytes_or_paths(tmp_path, layout):
    write_shields(tmp_path / "set", 5)
    names = [f"set/000/{n:06d}.png" for n in range(5)]
    columns: dict[str, dict] = {
        "records": {
            "image": [{"bytes": encoded(n), "path": None} for n in range(4)] + [{"bytes": None, "path": names[4]}]
        },
        "bytes": {"jpg": [encoded(n) for n in range(5)]},
        "paths": {"file_name": names},
    }
    rows = columns[layout] | {"caption": ["x"] * 5}
    pyarrow.parquet.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=2)
    items, _ = listed(tmp_path / "a.parquet")
    assert [item.id for item in items] == list("01234")
    assert_shows(opened(items), list(range(5)))
    # A worker may open rows of any part, in any order.
    assert_shows(opened(items[::-1]), [4, 3, 2, 1, 0])


def test_a_row_without_an_image_and_a_file_without_images(tmp_path):
    pyarrow.parquet.write_table(pa.table({"image": [encoded(0), None]}), tmp_path / "a.parquet")
    images = opened(listed(tmp_path / "a.parquet")[0])
    assert_shows(images[:1], [0])
    assert images[1] == "no image in the row"
    damaged = bytearray((tmp_path / "a.parquet").read_bytes())
    items = listed(tmp_path / "a.parquet")[0]
    damaged[4:200] = bytes(196)
    (tmp_path / "a.parquet").write_bytes(damaged)
    assert opened(items) == ["row group not readable as parquet"] * 2
    pyarrow.parquet.write_table(pa.table({"caption": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet: needs one column of image bytes, or .* it has caption"):
        listed(tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_text("no")
    with pytest.raises(UserError, match=r"c\.parquet: not readable as parquet"):
        listed(tmp_path / "c.parquet")


def annotate(path: Path, images: list[tuple[str, int, int]], boxes: list[tuple[int, list, int]]) -> Path:
    """Writes annotations; each box is image number, left, top, width and height, and whether it is a crowd."""
    records = [
        {"id": 10 + n, "image_id": image, "category_id": 1, "bbox": box, "area": 1.0, "iscrowd": crowd}
        for n, (image, box, crowd) in enumerate(boxes)
    ]
    listed_images = [
        {"id": n, "file_name": name, "width": width, "height": height} for n, (name, width, height) in enumerate(images)
    ]
    truth = {"images": listed_images, "annotations": records, "categories": [{"id": 1, "name": "thing"}]}
    path.write_text(json.dumps(truth))
    return path


def test_each_box_of_an_annotation_file_is_cropped(tmp_path):
    write_shields(tmp_path / "val", 2)
    (tmp_path / "meta").mkdir()
    images = [
        ("000/000000.png", 96, 96),
        ("000/000001.png", 96, 96),
        ("000/gone.png", 9, 9),
        ("000/000001.png", 50, 50),
    ]
    boxes = [
        (1, [5, 6, 40, 30], 0),
        (0, [0, 0, 96, 96], 0),
        (0, [200, 0, 5, 5], 0),
        (1, [5, 5, 9, 9], 1),
        (2, [0, 0, 5, 5], 0),
        (3, [0, 0, 5, 5], 0),
    ]
    file = annotate(tmp_path / "meta" / "boxes.json", images, boxes)
    items, left_out = listed(file, image_root=tmp_path / "val")
    assert left_out == {"crowd region": 1}
    assert [item.id for item in items] == ["11", "12", "10", "14", "15"]
    first, outside, second, missing, resized = opened(items)
    for number, image, box in ((0, first, [[0, 0, 96, 96]]), (1, second, [[5, 6, 45, 36]])):
        assert np.array_equal(np.asarray(image), cut_regions(shield(number), np.array(box), RegionArgs())[0])
    assert outside == "box without a pixel in its image"
    assert missing == "no such file or directory"
    assert resized == "image of another size than its record says"
    assert items[2].record() == {"path": str(tmp_path / "val" / "000/000001.png"), "id": "10", "box": [5, 6, 40, 30]}


def test_missing_inputs_are_errors_and_odd_file_names_are_not(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such image, folder or file"):
        check_inputs([tmp_path / "nowhere"])
    (tmp_path / "in").mkdir()
    odd = tmp_path / "in" / "caf\udce9.png"
    odd.write_bytes(encoded(1))
    (item,), _ = listed(tmp_path / "in")
    assert item.record()["path"].endswith("caf\\xe9.png")
    assert opened([item]) == ["file name that is not UTF-8"]
