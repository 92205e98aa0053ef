"""Manifests as they would be of other contents."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.files import read_json
from data_prep.core.manifests import MANIFEST, seal_folder


def rewrite_manifest(folder: Path, **metadata) -> None:
    """Writes a folder's manifest with other facts, and with the checksums that its files have now."""
    kept = read_json(folder / MANIFEST)
    del kept["sha256"]
    (folder / MANIFEST).unlink()
    seal_folder(folder, kept | metadata)
