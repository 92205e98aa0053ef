"""Reads what a run logged for Weights & Biases offline, as ``wandb sync`` will find it."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

_HEADER, _BLOCK = 7, 32768
_FULL, _LAST = 1, 4


def records_of(path: Path) -> list[Record]:
    """Parses a ``.wandb`` file: a log in LevelDB's format, of serialised records.

    wandb 0.31 reads it in its Go program alone, so the framing is undone here: blocks of 32 KiB, chunks with a header
    of checksum (4 bytes), length (2) and kind (1), and before them a header of the file.
    """
    data, place, parts, records = path.read_bytes(), _HEADER, b"", []
    assert data.startswith(b":W&B")
    while place + 7 <= len(data):
        if _BLOCK - place % _BLOCK < 7:  # too short a rest for a chunk's header
            place += _BLOCK - place % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (_FULL, _LAST):
            records.append(Record.FromString(parts))
            parts = b""
    return records


def _pairs(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


class OfflineRun:
    """One offline run.

    Args:
        folder: ``RUN/wandb/offline-run-…``.

    Attributes:
        run: Its record: id, project, group, kind of job, name.
        config: By section.
        history: A dict of figures per logged step.
        artifacts: By name.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        (path,) = folder.glob("run-*.wandb")
        by_kind: dict[str, list] = {}
        end = time.monotonic() + 30
        while "exit" not in by_kind:  # another process writes it, and may be a moment late
            assert time.monotonic() < end, f"{path} is not complete"
            by_kind.clear()
            for record in records_of(path):
                kind = record.WhichOneof("record_type")
                by_kind.setdefault(kind, []).append(getattr(record, kind))
        (self.run,) = by_kind["run"]
        self.config = _pairs(self.run.config.update)
        self.history = [_pairs(one.item) for one in by_kind.get("history", [])]
        self.artifacts = {one.name: one for one in by_kind.get("artifact", [])}

    def files(self, artifact: str) -> dict[str, Path]:
        """Where the files of an artifact wait to be uploaded, by their names in it."""
        return {entry.path: Path(entry.local_path) for entry in self.artifacts[artifact].manifest.contents}

    def table(self, key: str) -> list[dict]:
        """Rows of the last table logged under a key; a picture is its file."""
        held = [files for files in map(self.files, self.artifacts) if f"{key}.table.json" in files][-1]
        table = json.loads(held[f"{key}.table.json"].read_text())
        rows = [[held[v["path"]] if isinstance(v, dict) else v for v in row] for row in table["data"]]
        return [dict(zip(table["columns"], row, strict=True)) for row in rows]
