"""Rewrites manifests, as if a folder had other contents."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.files import read_json
from data_prep.core.manifests import MANIFEST, seal_folder


def rewrite_manifest(folder: Path, **metadata) -> None:
    """Writes a folder's manifest with other metadata, and with the current checksums of its files."""
    manifest = read_json(folder / MANIFEST)
    del manifest["sha256"]
    (folder / MANIFEST).unlink()
    seal_folder(folder, manifest | metadata)
