"""Reads an offline run of Weights & Biases, as ``wandb sync`` does."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record

_HEADER, _BLOCK = 7, 32768
_FULL, _LAST = 1, 4


def read_records(path: Path) -> list[Record]:
    """Parses a ``.wandb`` file: a log of serialised records in LevelDB's format.

    wandb 0.31 only reads it in its Go program, so the framing is decoded here: a header of the file, then blocks of
    32 KiB of chunks with a header of checksum (4 bytes), length (2) and kind (1).
    """
    data, position, parts, records = path.read_bytes(), _HEADER, b"", []
    assert data.startswith(b":W&B")
    while position + 7 <= len(data):
        if _BLOCK - position % _BLOCK < 7:  # the rest is too short for a chunk's header
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        if position + 7 + length > len(data):  # the rest is not written yet
            break
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
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
        run: The run's record: id, project, group, job type, name.
        config: By section.
        history: A dict of metrics per logged step.
        artifacts: By name.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        (path,) = folder.glob("run-*.wandb")
        by_kind: dict[str, list] = {}
        end = time.monotonic() + 30
        while "exit" not in by_kind:  # another process writes it, and may be slightly late
            assert time.monotonic() < end, f"{path} is not complete"
            by_kind.clear()
            for record in read_records(path):
                kind = record.WhichOneof("record_type")
                by_kind.setdefault(kind, []).append(getattr(record, kind))
        (self.run,) = by_kind["run"]
        self.config = _pairs(self.run.config.update)
        self.history = [_pairs(step.item) for step in by_kind.get("history", [])]
        self.artifacts = {artifact.name: artifact for artifact in by_kind.get("artifact", [])}

    def files(self, artifact: str) -> dict[str, Path]:
        """Returns the local files of an artifact that are to be uploaded, by their names in it."""
        return {entry.path: Path(entry.local_path) for entry in self.artifacts[artifact].manifest.contents}

    def table(self, key: str) -> list[dict]:
        """Returns the rows of the last table logged under a key; images are given as files."""
        table_files = [files for files in map(self.files, self.artifacts) if f"{key}.table.json" in files][-1]
        table = json.loads(table_files[f"{key}.table.json"].read_text())
        rows = [[table_files[v["path"]] if isinstance(v, dict) else v for v in row] for row in table["data"]]
        return [dict(zip(table["columns"], row, strict=True)) for row in rows]
