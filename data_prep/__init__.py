"""From labelled images to class memories and ranking examples; imports neither of the other packages.

``from data_prep import Memory, load_encoder, read_dataset`` loads each on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.datasets import read_dataset
    from data_prep.embedding.encoder import load_encoder
    from data_prep.memory.memory import Memory

__all__ = ["Memory", "load_encoder", "read_dataset"]

_MODULES = {
    "Memory": "data_prep.memory.memory",
    "load_encoder": "data_prep.embedding.encoder",
    "read_dataset": "data_prep.datasets",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
