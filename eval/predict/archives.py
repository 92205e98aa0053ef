"""WebDataset shards and parquet files: lists their images without reading them, and reads single images."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.core.errors import UserError
from data_prep.core.images import ImageError
from data_prep.datasets.parquet import image_column, read_features
from data_prep.reading.checked import MOST_BYTES
from data_prep.reading.finding import IMAGE_SUFFIXES, is_hidden_or_system_file
from eval.predict.items import Item

PATH_COLUMNS = ("path", "image_path", "file_name", "filename", "image", "file")
"""Columns of text that can name image files, in this order."""


def list_shard(shard: Path) -> Iterator[Item]:
    """Yields the images of an uncompressed tar file; its other files belong to them, such as captions.

    Raises:
        UserError: The file is not readable as such.
    """
    try:
        with tarfile.open(shard, "r:") as tar:
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile remembers every member
                *folders, name = Path(member.name).parts or ("",)
                hidden = is_hidden_or_system_file(name) or any(is_hidden_or_system_file(f, True) for f in folders)
                if member.isreg() and not hidden and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                    yield Item("tar", str(shard), member.name, (member.offset_data, member.size))
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{shard}: not readable as a shard ({reason}); give an uncompressed .tar") from None


def find_column(schema: Any, file: Path) -> str:
    """Finds the column of a parquet file that holds the images or their paths.

    Returns:
        str: A column of records with bytes, as Hugging Face's library writes them; else the only column of bytes; else
        one of ``PATH_COLUMNS`` with text.

    Raises:
        UserError: There is none, or several columns hold bytes.
    """
    import pyarrow

    if any(pyarrow.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0 for f in schema):
        return image_column(schema, read_features(schema, file), file)
    binary = [f.name for f in schema if pyarrow.types.is_binary(f.type) or pyarrow.types.is_large_binary(f.type)]
    if len(binary) == 1:
        return binary[0]
    text = [f.name for f in schema if pyarrow.types.is_string(f.type) or pyarrow.types.is_large_string(f.type)]
    paths = [name for name in PATH_COLUMNS if name in text]
    if not paths:
        raise UserError(
            f"{file}: needs one column of image bytes, or a column of paths named {', '.join(PATH_COLUMNS[:-1])} or "
            f"{PATH_COLUMNS[-1]}; it has {', '.join(schema.names)}"
        )
    return paths[0]


def list_parquet(file: Path) -> Iterator[Item]:
    """Yields the rows of a parquet file, from its metadata alone.

    Raises:
        UserError: pyarrow is not installed, the file is not readable, or it has no images.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: needs pyarrow: pip install 'rar-train[parquet]'") from None
    try:
        with open(file, "rb") as stream:  # pyarrow would interpret a path with a colon as a URI
            table = pyarrow.parquet.ParquetFile(stream)
            find_column(table.schema_arrow, file)
            counts = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{file}: not readable as parquet ({error})") from None
    number = 0
    for group, count in enumerate(counts):
        for row in range(count):
            yield Item("parquet", str(file), str(number), (group, row))
            number += 1


def read_member(item: Item) -> bytes:
    """Reads an image of a shard.

    Raises:
        ImageError: It is too large, or the shard has been cut short.
    """
    offset, size = item.position
    if size > MOST_BYTES:
        raise ImageError(item.path, f"file of more than {MOST_BYTES / 1e9:.1f} GB")
    with open(item.path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise ImageError(item.path, "the shard was cut short")
    return data


def _read_group(file: Path, group: int) -> Any:
    """Reads the images, or their paths, of a row group."""
    import pyarrow.parquet

    with open(file, "rb") as stream:
        table = pyarrow.parquet.ParquetFile(stream)
        return table.read_row_group(group, columns=[find_column(table.schema_arrow, file)]).column(0)


class ParquetRows:
    """Reads rows of parquet files; the last row group is kept, as rows mostly follow one another."""

    def __init__(self):
        self._group: tuple[str, int] | None = None
        self._cells: Any = None

    def read(self, item: Item) -> bytes | Path:
        """Returns an image's bytes, or its file.

        Raises:
            ImageError: The row has neither, or its row group is damaged.
        """
        import pyarrow

        group, row = item.position
        if self._group != (item.path, group):
            self._group, self._cells = None, None  # freed before the next one is read
            try:
                self._cells = _read_group(Path(item.path), group)
            except (pyarrow.ArrowException, OSError):
                raise ImageError(item.path, "row group not readable as parquet") from None
            self._group = (item.path, group)
        cell = self._cells[row].as_py()
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if not cell:
            raise ImageError(item.path, "no image in the row")
        return cell if isinstance(cell, bytes) else Path(item.path).parent / cell
