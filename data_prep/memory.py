"""The memory: class examples as unit vectors in a FAISS index, with who they are beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np

from data_prep.errors import UserError
from data_prep.files import file_hash, read_json, write_folder, write_json, write_text


@dataclass(frozen=True)
class Entry:
    """What one vector stands for.

    Attributes:
        label: Its class.
        modality: ``image`` or ``name``.
        key: The sample's key, or the class name.
        digest: The image's SHA-256; empty for a name.
    """

    label: int
    modality: str
    key: str
    digest: str = ""


class Memory:
    """Entries and their vectors, searched by inner product.

    An entry's id is its place in ``entries``; FAISS stores the ids itself (``IndexIDMap2``), so a
    vector cannot come to stand for another entry.
    """

    def __init__(self, index: faiss.Index, entries: Sequence[Entry], encoder_id: str):
        self.index, self.entries, self.encoder_id = index, tuple(entries), encoder_id

    @classmethod
    def build(cls, vectors: np.ndarray, entries: Sequence[Entry], encoder_id: str) -> Memory:
        """Builds an exact index.

        Args:
            vectors: Unit vectors of shape ``[nb, d]``, float32.
            entries: One for each vector.
            encoder_id: The encoder that made the vectors.

        Raises:
            ValueError: Counts differ or a vector is not of unit length.
        """
        xb = np.ascontiguousarray(vectors, np.float32)
        if len(xb) != len(entries):
            raise ValueError(f"{len(xb)} vectors for {len(entries)} entries")
        if not np.allclose(np.linalg.norm(xb, axis=1), 1, atol=1e-4):
            raise ValueError("the vectors are not of unit length")
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(xb.shape[1]))
        index.add_with_ids(xb, np.arange(len(xb), dtype=np.int64))
        return cls(index, entries, encoder_id)

    def search(self, xq: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest entries.

        Args:
            xq: Unit queries of shape ``[nq, d]``.
            k: How many; no more come back than there are entries.

        Returns:
            tuple: Similarities ``D`` and entry ids ``I``, each ``[nq, min(k, entries)]``, best first.
        """
        k = min(k, len(self.entries))
        if k == 0:
            return np.empty((len(xq), 0), np.float32), np.empty((len(xq), 0), np.int64)
        return self.index.search(np.ascontiguousarray(xq, np.float32), k)

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """The stored vectors of some entries, shape ``[len(ids), d]``."""
        return np.stack([self.index.reconstruct(int(i)) for i in ids])

    def save(self, folder: Path) -> None:
        """Writes index, entries and manifest; the folder is whole or as it was before."""
        with write_folder(folder) as part:
            faiss.write_index(self.index, str(part / "index.faiss"))
            lines = [json.dumps(asdict(entry), ensure_ascii=False) for entry in self.entries]
            write_text(part / "entries.jsonl", "".join(f"{line}\n" for line in lines))
            manifest = {
                "encoder": self.encoder_id,
                "dimension": self.index.d,
                "entries": len(self.entries),
                "index": "flat",
                "metric": "inner product of unit vectors",
                "files": {name: file_hash(part / name) for name in ("index.faiss", "entries.jsonl")},
            }
            write_json(part / "manifest.json", manifest)

    @classmethod
    def load(cls, folder: Path, encoder_id: str) -> Memory:
        """Reads a memory that was made with the given encoder.

        Raises:
            UserError: The memory is missing or damaged, or another encoder made it.
        """
        manifest = read_json(folder / "manifest.json")
        if manifest["encoder"] != encoder_id:
            raise UserError(
                f"{folder}: this memory was made with encoder {manifest['encoder']}, but {encoder_id} is loaded; "
                "its vectors do not compare. Load the first, or build the memory again."
            )
        for name, expected in manifest["files"].items():
            if not (folder / name).is_file() or file_hash(folder / name) != expected:
                raise UserError(f"{folder / name}: missing or damaged; delete {folder} to have it built again")
        index = faiss.read_index(str(folder / "index.faiss"))
        with open(folder / "entries.jsonl", encoding="utf-8") as lines:
            return cls(index, [Entry(**json.loads(line)) for line in lines], encoder_id)
