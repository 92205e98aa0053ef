"""From a tuned ranker to metrics, intervals and predictions; may import ``data_prep`` and, of ``rar_train``, two rooms.

``from eval import Recognizer, Ranker`` loads each on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval.ranking.ranker import Ranker
    from eval.recognition.recognizer import Recognizer

__all__ = ["Ranker", "Recognizer"]

_MODULES = {"Ranker": "eval.ranking.ranker", "Recognizer": "eval.recognition.recognizer"}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
