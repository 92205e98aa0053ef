"""The output file in its format: JSON lines, CSV or parquet, written as a stream under a temporary name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import naming_path, part_path, write_text
from eval.report.sheets import csv_text

Parts = Iterator[list[dict]]
"""Records, part by part; see ``to_record``."""

_FIRST_COLUMNS = ("path", "id", "box", "name", "probability", "known", "ranked", "error")
_ROW_GROUP = 16384  # records


def _rounded(probability: float | None) -> float | None:
    """Rounds a probability to six digits, as a spreadsheet's reader wants it; the other formats have all digits."""
    return None if probability is None else round(probability, 6)


def write_csv(path: Path, parts: Parts, top: int) -> None:
    """Writes a row per image, with three columns per candidate; see ``eval.report.sheets.neutralise``."""
    kinds = ("candidate", "probability", "score")
    columns = [*_FIRST_COLUMNS, *(f"{kind}_{number}" for number in range(1, top + 1) for kind in kinds)]

    def rows() -> Iterator[list]:
        yield columns
        for records in parts:
            for record in records:
                cells = [record[column] for column in _FIRST_COLUMNS]
                cells[_FIRST_COLUMNS.index("probability")] = _rounded(record["probability"])
                for candidate in record["candidates"]:
                    cells += [candidate["name"], _rounded(candidate["probability"]), candidate["score"]]
                yield cells + [None] * (len(columns) - len(cells))

    write_text(path, csv_text(rows()))


def write_jsonl(path: Path, parts: Parts, top: int) -> None:
    """Writes a JSON object per image and line."""
    write_text(path, (json.dumps(record, ensure_ascii=False) + "\n" for records in parts for record in records))


def write_parquet(path: Path, parts: Parts, top: int) -> None:
    """Writes a row per image, with the candidates as a list of records."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    candidate = pa.struct([("name", pa.string()), ("probability", pa.float64()), ("score", pa.float64())])
    types = dict.fromkeys(("path", "id", "name", "error"), pa.string())
    types |= {"box": pa.list_(pa.float64()), "probability": pa.float64(), "known": pa.bool_(), "ranked": pa.bool_()}
    schema = pa.schema([(column, types[column]) for column in _FIRST_COLUMNS] + [("candidates", pa.list_(candidate))])
    part = part_path(path)
    try:
        with naming_path(path), open(part, "wb") as file, ParquetWriter(file, schema) as writer:
            rows: list[dict] = []
            for records in parts:
                rows += records
                if len(rows) >= _ROW_GROUP:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
            writer.write_table(pa.Table.from_pylist(rows, schema))
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


WRITERS: dict[str, Callable[[Path, Parts, int], None]] = {
    ".jsonl": write_jsonl,
    ".csv": write_csv,
    ".parquet": write_parquet,
}
"""Writers by the suffix of the file; each takes the path, the records and the number of candidates per line."""


def check_output(path: Path) -> None:
    """Checks that a file can be written in the format of its suffix.

    Raises:
        UserError: There is no such format, its library is not installed, or the path is a folder.
    """
    if path.suffix not in WRITERS:
        raise UserError(f"--to {path}: must end with {', '.join(WRITERS)}")
    if path.is_dir():
        raise UserError(f"--to {path}: is a folder; give a file in it")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UserError(f"--to {path}: needs pyarrow: pip install 'rar-train[parquet]'") from None
