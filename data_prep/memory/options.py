"""How a memory is searched and classes are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SearchOptions:
    """How a memory is searched and classes are scored.

    Attributes:
        initial_fetch: Entries to fetch at first where a search goes through the index: an approximate one, or any for
            the nearest entries. Queries for which that gives too few results fetch twice as many, and so on, up to the
            complete memory.
        exclude: A digest per query; entries with that digest are ignored. This excludes a query, and its copies, from
            its own results: byte-identical ones, or all to which the memory gives one digest.
        aggregate: A class's score: its best entry's (``max``), the ``mean`` of its ``top_m`` best, or that of its
            ``prototype``.
        top_m: Number of entries that ``mean`` averages.
    """

    initial_fetch: int
    exclude: Sequence[str] | None = None
    aggregate: str = "max"
    top_m: int = 1
