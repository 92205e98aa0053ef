"""From labelled images to class memories and ranking examples; imports neither of the other packages.

``from data_prep import Encoder, Memory, load_encoder, read_dataset`` loads each on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.core.lazy import make_lazy

if TYPE_CHECKING:
    from data_prep.datasets import read_dataset
    from data_prep.embedding.base import Encoder
    from data_prep.embedding.encoder import load_encoder
    from data_prep.memory.memory import Memory

__all__ = ["Encoder", "Memory", "load_encoder", "read_dataset"]

__getattr__, __dir__ = make_lazy(
    __name__,
    {
        "Encoder": "data_prep.embedding.base",
        "Memory": "data_prep.memory.memory",
        "load_encoder": "data_prep.embedding.encoder",
        "read_dataset": "data_prep.datasets",
    },
)
