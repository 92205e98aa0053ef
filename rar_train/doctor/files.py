"""Which files of a folder are read and which are passed over, without opening them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from data_prep.core.images import missing_decoder
from data_prep.datasets.folder import Layout
from data_prep.reading.dataset import count_reasons, count_suffixes
from rar_train.doctor.findings import Finding


def file_findings(layout: Layout) -> list[Finding]:
    """Counts the files of a layout by suffix, and those passed over by reason; names decoders that are missing."""
    paths = [Path(row.path) for row in layout.rows]
    passed = f"; passed over: {count_reasons(layout.passed)}" if layout.passed else ""
    findings = [Finding("files", "ok", f"{count_suffixes(paths)}{passed}")]
    if layout.rule:
        findings.append(Finding("class folders", "ok", layout.rule))
    undecodable: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        if need := missing_decoder(path):
            undecodable[need].append(path)
    for need, files in undecodable.items():
        name, _, command = need.partition(", which needs ")
        text = f"{count_suffixes(files)} of {len(paths)} images can't be decoded here ({name}), and would be left out"
        findings.append(Finding("files", "warning", text, command))
    return findings
