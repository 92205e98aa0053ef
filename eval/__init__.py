"""From a tuned ranker to metrics, intervals and predictions; may import ``data_prep`` and, of ``rar_train``, two rooms.

``from eval import Recognizer, Ranker`` loads each on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.core.lazy import make_lazy

if TYPE_CHECKING:
    from eval.ranking.ranker import Ranker
    from eval.recognizer.recognizer import Recognizer

__all__ = ["Ranker", "Recognizer"]

__getattr__, __dir__ = make_lazy(
    __name__, {"Ranker": "eval.ranking.ranker", "Recognizer": "eval.recognizer.recognizer"}
)
