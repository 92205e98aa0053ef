"""Embedding cache: reads return what was written, or an error names the damaged part."""

from __future__ import annotations

import hashlib
import re
import resource

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.os_errors import describe_error
from data_prep.embedding.store import EmbeddingStore

KEYS = [hashlib.sha256(bytes([n])).hexdigest() for n in range(3)]
VECTORS = np.eye(3, 4, dtype=np.float32)


@pytest.fixture
def store(tmp_path):
    store = EmbeddingStore(tmp_path / "embeddings", {"model": "m"})
    store.write(KEYS, VECTORS)
    return store


def test_any_flipped_bit_is_detected_or_harmless(store):
    """A vector with one flipped sign keeps its length, so no other check would detect it."""
    (part,) = store.folder.glob("part-*")
    original, detected = part.read_bytes(), 0
    for offset in range(len(original)):
        flipped = bytes([original[offset] ^ 1 << offset % 8])
        part.write_bytes(original[:offset] + flipped + original[offset + 1 :])
        try:
            assert np.array_equal(store.read(KEYS), VECTORS), offset
        except UserError as error:
            assert f"{part}: damaged" in str(error) and "delete it to have it made again" in str(error)
            detected += 1
    # Only a change of the header's padding may go undetected.
    assert detected > 0.95 * len(original)


def test_a_part_without_checksums_is_refused(store):
    from safetensors.numpy import load_file, save_file

    (part,) = store.folder.glob("part-*")
    save_file(load_file(part), part)
    with pytest.raises(UserError, match="the checksum of its keys differs"):
        store.missing(KEYS)


def test_a_failed_write_leaves_no_files(store, monkeypatch):
    def fail_halfway(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_prep.embedding.store.save_file", fail_halfway)
    before = sorted(store.folder.iterdir())
    with pytest.raises(OSError, match="No space left"):
        store.write(KEYS[:1], VECTORS[:1])
    assert sorted(store.folder.iterdir()) == before


def test_an_error_of_a_full_disk_names_the_part_and_leaves_no_part(tmp_path):
    store, sizes = EmbeddingStore(tmp_path / "embeddings", {"model": "m"}), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, sizes[1]))  # simulates a full disk
    try:
        with pytest.raises(OSError) as caught:
            store.write(KEYS, VECTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, sizes)
    assert re.search(r"embeddings/part-\w+\.safetensors: larger than a file may be here", describe_error(caught.value))
    assert [path.name for path in store.folder.iterdir()] == ["encoder.json"]
