"""The embedding cache: what is read is what was written, or the damaged part is named."""

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


def test_any_flipped_bit_is_noticed_or_harmless(store):
    """A vector whose sign is flipped in one place keeps its length, so nothing else would notice."""
    (part,) = store.folder.glob("part-*")
    whole, noticed = part.read_bytes(), 0
    for place in range(len(whole)):
        flipped = bytes([whole[place] ^ 1 << place % 8])
        part.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        try:
            assert np.array_equal(store.read(KEYS), VECTORS), place
        except UserError as error:
            assert f"{part}: damaged" in str(error) and "delete it to have it made again" in str(error)
            noticed += 1
    # Only the header's spaces may change unseen.
    assert noticed > 0.95 * len(whole)


def test_a_part_without_checksums_is_not_believed(store):
    from safetensors.numpy import load_file, save_file

    (part,) = store.folder.glob("part-*")
    save_file(load_file(part), part)
    with pytest.raises(UserError, match="the checksum of its keys differs"):
        store.missing(KEYS)


def test_a_write_that_fails_leaves_nothing_behind(store, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_prep.embedding.store.save_file", full)
    before = sorted(store.folder.iterdir())
    with pytest.raises(OSError, match="No space left"):
        store.write(KEYS[:1], VECTORS[:1])
    assert sorted(store.folder.iterdir()) == before


def test_a_full_disk_is_named_with_the_part_and_leaves_nothing(tmp_path):
    store, sizes = EmbeddingStore(tmp_path / "embeddings", {"model": "m"}), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, sizes[1]))  # as a full disk answers
    try:
        with pytest.raises(OSError) as caught:
            store.write(KEYS, VECTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, sizes)
    assert re.search(r"embeddings/part-\w+\.safetensors: larger than a file may be here", describe_error(caught.value))
    assert [path.name for path in store.folder.iterdir()] == ["encoder.json"]
