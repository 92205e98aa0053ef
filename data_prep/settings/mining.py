"""Settings of mining."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.data import DataArgs
from data_prep.settings.modes import SOURCES
from data_prep.settings.validate import bounded, check, one_of

TARGETS = ("truth_first", "truth_only", "graded")


@dataclass
class MixArgs:
    """A further data set whose training images are mined too."""

    data: DataArgs = field(default_factory=DataArgs)
    weight: float = 1.0
    """How often each of its examples stands in the result: 2 repeats all, 0.5 keeps half by lot."""

    def __post_init__(self) -> None:
        check(self.weight > 0, f"mining.mix: weight={self.weight} must be above 0")


@dataclass
class MiningArgs:
    """How ranking examples are made from the training classes."""

    k: int = 5
    """Candidates per example."""
    k_max: int | None = None
    """With a value, each example has between ``k`` and ``k_max`` candidates, by lot."""
    candidate_unit: str = "class"
    """Candidates are distinct classes, or with ``image`` the classes of the nearest images, as in the paper's released
    code, where a class can stand twice."""
    construction: str = "top_k"
    """``top_k``: the k nearest; ``windows``: every run of k among the ``retrieved`` nearest, as in the paper."""
    retrieved: int = 20
    """Neighbours that ``windows`` slides over: 20 give 16 windows of 5."""
    num_easy_negatives: int = 0
    """Of the k candidates, how many are drawn by lot from further down in place of the nearest."""
    easy_negative_max_rank: int = 50
    """How far down the easier ones are drawn from, in ranks."""
    sources: list[str] = field(default_factory=lambda: ["image", "name"])
    """What candidates come from, one example per image and source: ``image``, ``name``, ``fused``."""
    neighbours: str = "leave_one_out"
    """What an image may retrieve: ``leave_one_out``, all images but itself and its copies; ``disjoint``, half of each
    class's images are the memory and the other half asks (the paper's); ``self``, itself too (the released code's: a
    leak)."""
    near_duplicate_threshold: float = 0.99
    """Cosine similarity from which two images count as one picture, encoded anew; above 1: equal bytes alone do."""
    evaluated_copies: str = "error"
    """A training image that is also an evaluated one, byte for byte: ``error``, or ``skip`` (counted)."""
    ground_truth: str = "only_if_retrieved"
    """``only_if_retrieved`` drops an example whose truth is not among the candidates; ``insert`` puts it last;
    ``keep_without`` keeps the example as it is."""
    none_of_these: bool = False
    """Every example offers ``none of these`` beside its candidates; it is right where the truth is missing."""
    names: str = "canonical"
    """``canonical``: a class's name; ``synonyms``: by lot that or one of its synonyms, where the data set has them."""
    target: str = "truth_first"
    """What the list objective and exported answers ask for: ``truth_first``, the others in retriever order (the
    paper's); ``truth_only``; ``graded``, by similarity of each name to the true one."""
    weight: float = 1.0
    """How often each example of ``data`` stands in the result, beside those of ``mix``."""
    mix: list[MixArgs] = field(default_factory=list)
    """Further data sets to mine, such as ``[{data: {name: folder, root: PATH}, weight: 0.5}]``."""
    shards: str | None = None
    """A folder of shards to tune on in place of mining, such as ``data_prep.import_rar`` writes."""
    seed: int = 0
    """Draws halves, numbers of candidates, easier ones, synonyms and the mix."""
    images: str = "raw"
    """What shards hold: ``raw``, the images' bytes; ``paths``, where they lie, with their hashes."""
    shard_size: int = 1000
    """Examples per shard."""
    streaming: bool = False
    """Trains on whole shards drawn with replacement instead of exact epochs: for data too large for an index in
    memory."""

    def __post_init__(self) -> None:
        self._check_candidates()
        for memory in self.sources:
            one_of("mining.sources", memory, SOURCES)
        check(len(self.sources) > 0, "mining.sources: name at least one of image, name, fused")
        bounded("mining", self, {"shard_size": 1, "seed": 0, "near_duplicate_threshold": 0.5})
        check(self.weight > 0, f"mining.weight={self.weight}: must be above 0")
        one_of("mining.neighbours", self.neighbours, ("leave_one_out", "disjoint", "self"))
        one_of("mining.evaluated_copies", self.evaluated_copies, ("error", "skip"))
        one_of("mining.ground_truth", self.ground_truth, ("only_if_retrieved", "insert", "keep_without"))
        one_of("mining.names", self.names, ("canonical", "synonyms"))
        one_of("mining.target", self.target, TARGETS)
        one_of("mining.images", self.images, ("raw", "paths"))
        check(
            self.ground_truth != "keep_without" or self.none_of_these or self.target == "graded",
            "mining.ground_truth=keep_without: an example without its truth has no right answer; add "
            "mining.none_of_these=true, or mining.target=graded",
        )

    def _check_candidates(self) -> None:
        one_of("mining.candidate_unit", self.candidate_unit, ("class", "image"))
        one_of("mining.construction", self.construction, ("top_k", "windows"))
        most = 25 if self.none_of_these else 26
        for key, value in (("k", self.k), ("k_max", self.k_max)):
            check(value is None or 2 <= value <= most, f"mining.{key}={value}: must lie in 2..{most}, a letter each")
        check(self.k_max is None or self.k_max >= self.k, f"mining.k_max={self.k_max}: must be at least k, {self.k}")
        check(
            0 <= self.num_easy_negatives < self.k,
            f"mining.num_easy_negatives={self.num_easy_negatives}: must lie in 0..{self.k - 1}, below k",
        )
        if self.num_easy_negatives:
            check(
                self.easy_negative_max_rank >= self.most + self.num_easy_negatives,
                f"mining.easy_negative_max_rank={self.easy_negative_max_rank}: must be at least {self.most + self.num_easy_negatives}, beyond the candidates",
            )
        if self.construction == "windows":
            check(self.retrieved >= self.k, f"mining.retrieved={self.retrieved}: must be at least k, {self.k}")
            check(
                self.k_max is None and not self.num_easy_negatives,
                "mining.construction=windows: has windows of k, without k_max and easy",
            )

    @property
    def most(self) -> int:
        """The most candidates that an example can have, ``none of these`` left out."""
        return self.k_max or self.k

    @property
    def depth(self) -> int:
        """How many neighbours an example is made from."""
        if self.construction == "windows":
            return self.retrieved
        return max(self.most, self.easy_negative_max_rank if self.num_easy_negatives else 0)
