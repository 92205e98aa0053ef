"""Lists the images to label: image files, folders, files of paths, shards, parquet files, COCO-style boxes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.detection.annotations import image_file_name, read_annotations
from data_prep.reading.finding import NOT_AN_IMAGE, is_image_file, walk
from data_prep.reading.tables import with_slashes
from eval.predict.archives import list_parquet, list_shard
from eval.predict.items import Item

_COMPRESSED = (".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z")


def check_inputs(inputs: Sequence[Path]) -> None:
    """Checks that every input is there and of a kind that can be listed.

    Raises:
        UserError: One is missing, or is a compressed archive.
    """
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path}: no such image, folder or file")
        if path.suffix.lower() in _COMPRESSED:
            raise UserError(f"{path}: is compressed; unpack it into a folder or an uncompressed .tar")


def list_items(inputs: Sequence[Path], image_root: Path | None, left_out: Counter) -> Iterator[Item]:
    """Yields the images of the inputs, in a fixed order; memory does not grow with their number.

    Args:
        inputs: Image files; folders, with everything below them; ``.txt`` files with a path per line, relative to the
            file's folder; WebDataset shards (``.tar``); parquet files; COCO-style annotation files (``.json``), whose
            boxes are labelled. An annotation file alone is read into memory as a whole.
        image_root: Folder that the image names of annotation files are relative to; by default the file's own folder.
        left_out: Counts what is passed over, by reason.

    Raises:
        UserError: A file of paths, a shard, a parquet file or an annotation file is not readable.
    """
    for path in inputs:
        if path.is_dir():
            yield from _list_folder(path, left_out)
        elif path.suffix.lower() == ".txt":
            yield from _list_lines(path)
        elif path.suffix.lower() == ".json":
            yield from _list_boxes(path, image_root or path.parent, left_out)
        else:
            yield from _list_file(path)


def _list_file(path: Path) -> Iterator[Item]:
    """Yields an image file, or the images of an archive."""
    if path.suffix.lower() == ".tar":
        yield from list_shard(path)
    elif path.suffix.lower() == ".parquet":
        yield from list_parquet(path)
    else:
        yield Item("file", str(path))


def _list_folder(folder: Path, left_out: Counter) -> Iterator[Item]:
    for path, reason in walk(folder):
        if reason:
            left_out[reason] += 1
        elif path.suffix.lower() in (".tar", ".parquet") or is_image_file(path):
            yield from _list_file(path)
        else:
            left_out[NOT_AN_IMAGE] += 1


def _list_lines(listing: Path) -> Iterator[Item]:
    # A file name may hold bytes that are not UTF-8.
    with open(listing, encoding="utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            if line.strip():
                yield from _list_file(listing.parent / with_slashes(line.strip(), listing.parent))


def _list_boxes(annotation_file: Path, image_root: Path, left_out: Counter) -> Iterator[Item]:
    """Yields the boxes of an annotation file, image by image; crowd regions are no single object."""
    truth = read_annotations(annotation_file, "coco").truth
    by_image: dict[int, list[dict]] = defaultdict(list)
    for annotation in truth["annotations"]:
        if annotation.get("iscrowd"):
            left_out["crowd region"] += 1
        else:
            by_image[annotation["image_id"]].append(annotation)
    for image in truth["images"]:
        path = str(image_root / with_slashes(image_file_name(image), image_root))
        size = (int(image["width"]), int(image["height"]))
        for annotation in by_image[image["id"]]:
            yield Item("box", path, str(annotation["id"]), size, tuple(annotation["bbox"]))
