"""Settings of mining (section ``mining``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.data import DataArgs
from data_prep.settings.modes import ADAPTERS, SOURCES
from data_prep.settings.validate import bounded, check, one_of

TARGETS = ("truth_first", "truth_only", "graded")


@dataclass
class MixArgs:
    """A further data set whose training images are mined too."""

    data: DataArgs = field(default_factory=DataArgs)
    """The data set, with the keys of section ``data``."""
    weight: float = 1.0
    """How often each of its examples is included, above 0: 2 includes each twice, 0.5 a random half of them."""

    def __post_init__(self) -> None:
        check(self.weight > 0, f"mining.mix: weight={self.weight} must be above 0")


@dataclass
class MiningArgs:
    """How ranking examples are made from the training classes."""

    k: int = 5
    """Candidates per example, 2 to 26 (25 with ``none_of_these``)."""
    k_max: int | None = None
    """When set, the number of candidates per example is random between ``k`` and ``k_max`` (at most 26; 25 with
    ``none_of_these``). Not with ``construction: windows``."""
    candidate_unit: str = "class"
    """``class``: candidates are distinct classes; ``image``: they are the classes of the nearest images, as in the
    paper's released code, so a class can occur twice."""
    construction: str = "top_k"
    """``top_k``: the k nearest; ``windows``: every run of k consecutive neighbours among the ``retrieved`` nearest, as
    in the paper."""
    retrieved: int = 20
    """Number of neighbours that ``windows`` slides over, at least ``k``; 20 give 16 windows of 5."""
    num_easy_negatives: int = 0
    """How many of the k candidates are easy negatives, sampled from lower ranks in place of the nearest; 0 to k - 1.
    Not with ``construction: windows``."""
    easy_negative_max_rank: int = 50
    """Easy negatives are sampled from ranks up to this one (1 is the nearest); at least the number of candidates plus
    ``num_easy_negatives``."""
    sources: list[str] = field(default_factory=lambda: ["image", "name"])
    """Where candidates come from, one example per image and source: any of ``image`` (image memory), ``name`` (text
    memory), ``fused`` (both), and the adapters ``tip``, ``tip_f`` and ``linear_probe``, fitted without the image."""
    neighbours: str = "leave_one_out"
    """What an image may retrieve: ``leave_one_out`` (all images except itself and its near-duplicates); ``disjoint``
    (half of each class's images are the memory, the other half the queries, as in the paper); ``self`` (itself too, as
    in the released code: a leak)."""
    near_duplicate_threshold: float = 0.99
    """Cosine similarity, at least 0.5, from which two images count as re-encoded copies of one another; above 1: only
    byte-identical files do."""
    evaluated_copies: str = "error"
    """What to do with a training image that is, byte for byte, also an evaluated image: ``error``, or ``skip`` (leaves
    it out of training, and of the memories that its run is evaluated with, and counts it)."""
    ground_truth: str = "only_if_retrieved"
    """What to do when the true class is not among the candidates: ``only_if_retrieved`` drops the example, ``insert``
    puts the true class last, ``keep_without`` keeps the example as it is."""
    none_of_these: bool = False
    """Adds the option ``none of these`` to the candidates of every example; it is the right answer where the true class
    is missing."""
    names: str = "canonical"
    """``canonical``: the class name; ``synonyms``: at random the name or one of its synonyms, where the data set has
    them."""
    target: str = "truth_first"
    """Target order of the list objective and of exported answers: ``truth_first`` (the others in retriever order, as in
    the paper), ``truth_only``, or ``graded`` (by the similarity of each name to the true one)."""
    weight: float = 1.0
    """How often each example of ``data`` is included, above 0, relative to those of ``mix``."""
    mix: list[MixArgs] = field(default_factory=list)
    """Further data sets to mine, such as ``[{data: {name: folder, root: PATH}, weight: 0.5}]``."""
    shards: str | None = None
    """Folder of ready-made shards to train on instead of mining, such as the output of ``data_prep.import_examples``.
    Null: mine."""
    seed: int = 0
    """Seed, at least 0, of every random choice in mining: disjoint halves, numbers of candidates, easy negatives,
    synonyms and the mix."""
    images: str = "raw"
    """What shards store for each image: ``raw`` (its bytes) or ``paths`` (its path and hash)."""
    shard_size: int = 1000
    """Examples per shard, at least 1."""
    streaming: bool = False
    """Trains on complete shards sampled with replacement instead of exact epochs, for data whose index does not fit in
    memory."""

    def __post_init__(self) -> None:
        self._check_candidates()
        for source in self.sources:
            one_of("mining.sources", source, (*SOURCES, *ADAPTERS))
        check(len(self.sources) > 0, "mining.sources: give at least one, such as image")
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
        limit = 25 if self.none_of_these else 26
        for key, value in (("k", self.k), ("k_max", self.k_max)):
            check(value is None or 2 <= value <= limit, f"mining.{key}={value}: must be in 2..{limit}, a letter each")
        check(self.k_max is None or self.k_max >= self.k, f"mining.k_max={self.k_max}: must be at least k, {self.k}")
        check(
            0 <= self.num_easy_negatives < self.k,
            f"mining.num_easy_negatives={self.num_easy_negatives}: must be in 0..{self.k - 1}, below k",
        )
        if self.num_easy_negatives:
            minimum = self.most + self.num_easy_negatives
            check(
                self.easy_negative_max_rank >= minimum,
                f"mining.easy_negative_max_rank={self.easy_negative_max_rank}: must be at least {minimum}, beyond the "
                "candidates",
            )
        if self.construction == "windows":
            check(self.retrieved >= self.k, f"mining.retrieved={self.retrieved}: must be at least k, {self.k}")
            check(
                self.k_max is None and not self.num_easy_negatives,
                "mining.construction=windows: has windows of k candidates; leave out k_max and num_easy_negatives",
            )

    @property
    def most(self) -> int:
        """The maximum number of candidates of an example, without ``none of these``."""
        return self.k_max or self.k

    @property
    def depth(self) -> int:
        """The number of neighbours retrieved for an example."""
        if self.construction == "windows":
            return self.retrieved
        return max(self.most, self.easy_negative_max_rank if self.num_easy_negatives else 0)
