"""The example modules of docs/extending.md, as files in a folder."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"


def write_examples(folder: Path) -> list[str]:
    """Writes every complete file of the page into a folder, and returns their modules' names."""
    files = dict(re.findall(r"complete file `(\w+\.py)`.*?```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    for name, code in files.items():
        (folder / name).write_text(code, encoding="utf-8")
    return [name.removesuffix(".py") for name in files]


def install(folder: Path, group: str, name: str, value: str, package: str | None = None) -> None:
    """Makes a folder of ``sys.path`` hold a package with one entry point, as ``pip install`` would."""
    package = package or f"{name}_package"
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
