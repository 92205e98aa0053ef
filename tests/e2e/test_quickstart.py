"""The notebook docs/quickstart.ipynb: runs from top to bottom, offline, and shows what its text says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def output_of(cell: dict) -> str:
    """The text that a cell printed or showed."""
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(texts)


def test_the_notebook_is_kept_without_outputs():
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        assert cell.cell_type == "markdown" or (cell.outputs == [] and cell.execution_count is None)


def check_outputs(notebook: dict, folder: Path) -> None:
    """Checks what an executed notebook shows, and the files in its folder."""
    shown = [(cell.source, output_of(cell)) for cell in notebook.cells if cell.cell_type == "code"]
    everything = "\n".join(output for _, output in shown)
    for text in ("data", "training: done", "rar_fused", "mean_class_top1", "few_shot-4 rar_fused before: "):
        assert text in everything, text
    (results,) = [json.loads(path.read_text()) for path in folder.glob("runs/first/eval/*/results.json")]
    top1 = {row["method"]: row["top1"] for row in results["rows"] if row["shots"] == 4}
    assert top1["rar"] > top1["clip_knn"], "the embedded ranker knows shields"
    (added,) = [output for source, output in shown if source.startswith("*known, query")]
    names = {key: value.strip() for key, value in (line.split(":", 1) for line in added.splitlines() if ": " in line)}
    assert names["before"] != names["after"] == names["true"]
    assert len((folder / "labels.csv").read_text().splitlines()) == 7


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(NOTEBOOK, 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=resources).execute()
    check_outputs(notebook, tmp_path / "quickstart")
