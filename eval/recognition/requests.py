"""Ranking requests of an evaluation, built when they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from data_prep.core.records import Candidate, Sample
from data_prep.settings import Recipe
from eval.ranking.request import RankingRequest, select_descriptions, shuffled_requests


@dataclass(frozen=True)
class RequestBuilder:
    """Builds the requests about each image: one for all memories, or those of one memory in each order shown.

    A score of a pointwise mode depends neither on the order nor on the other names, so one request serves all memories.

    Attributes:
        recipe: ``ranker.mode`` and ``ranker.descriptions``.
        samples: The images.
        sources: Candidates per image, of each memory whose names the request has.
        permutations: Number of orders.
        descriptions: Descriptions of classes by name.
        examples: An image file for each candidate of the one memory, per image; or empty.
        digest_by_path: Content digests of the memory's image files.
    """

    recipe: Recipe
    samples: Sequence[Sample]
    sources: Sequence[Sequence[tuple[Candidate, ...]]]
    permutations: int = 1
    descriptions: Mapping[str, str] = field(default_factory=dict)
    examples: Sequence[tuple[str, ...]] = ()
    digest_by_path: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, image: int) -> list[RankingRequest]:
        """Builds the requests about the image of an index."""
        sample = self.samples[image]
        names = tuple(sorted({candidate.name for rows in self.sources for candidate in rows[image]}))
        files = self.examples[image] if self.examples else ()
        by_name = {candidate.name: path for candidate, path in zip(self.sources[0][image], files, strict=False)}
        shown = tuple(by_name[name] for name in names) if files else ()
        contents = (sample.digest, *(self.digest_by_path[path] for path in shown))
        described = select_descriptions(self.recipe, names, self.descriptions)
        request = RankingRequest(sample.key, sample.path, names, 0, shown, contents, described)
        return shuffled_requests(request, self.permutations)
