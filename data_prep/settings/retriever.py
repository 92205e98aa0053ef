"""Settings of the retriever (section ``retriever``)."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.validate import bounded, check, one_of


@dataclass
class HnswArgs:
    """The HNSW index, a graph of neighbours (approximate search)."""

    M: int = 32
    """Links per vector in the graph, at least 4; more need more memory and find more."""
    ef_construction: int = 80
    """Candidates examined when a vector is added, at least 4; more build slower and link better."""
    ef_search: int = 128
    """Candidates examined per search, at least 1; more search slower and find more."""

    def __post_init__(self) -> None:
        bounded("retriever.hnsw", self, {"M": 4, "ef_construction": 4, "ef_search": 1})


@dataclass
class IvfArgs:
    """The IVF index, an inverted list for each cluster of the space (approximate search)."""

    nlist: int = 0
    """Number of clusters; 0: four times the square root of the number of entries."""
    nprobe: int = 32
    """Number of clusters read per search, at least 1; more search slower and find more."""

    def __post_init__(self) -> None:
        bounded("retriever.ivf", self, {"nlist": 0, "nprobe": 1})


@dataclass
class RegionArgs:
    """How an object is cropped from its image (the paper's detection section: crop, resize, blur around the target)."""

    size: int = 224
    """Width and height of a region, in pixels, at least 8."""
    small: float = 32
    """Object size (square root of the area, in pixels) up to which ``scale_small`` applies; above 0."""
    large: float = 96
    """Object size (same unit) from which ``scale_large`` applies; above ``small``."""
    scale_small: float = 3.0
    """Side of the crop relative to the object's longer side for a small object, at least 1: 3 crops three times the
    object."""
    scale_large: float = 1.0
    """The same for a large object, at least 1; between the two sizes it is interpolated over the logarithm of the
    size."""
    blur: float = 0.02
    """Standard deviation of the Gaussian blur outside the object, as a fraction (0 to 1) of the region's side; 0: no
    blur."""

    def __post_init__(self) -> None:
        bounded("retriever.regions", self, {"size": 8, "scale_small": 1, "scale_large": 1, "blur": 0}, {"blur": 1})
        check(self.small > 0, f"retriever.regions.small={self.small}: must be above 0")
        check(self.small < self.large, f"retriever.regions.large={self.large}: must be above small, {self.small}")


@dataclass
class TuningArgs:
    """How ``recipe=retriever_clip`` tunes the encoder; section ``optim`` has the rest."""

    lora_rank: int = 16
    """Rank of the LoRA adapters, which are merged into the weights at the end; 0 tunes all weights."""
    lora_alpha: int = 32
    """Scaling numerator of the adapters, at least 1."""
    towers: str = "both"
    """What is tuned: ``image``, ``text`` or ``both`` towers; or ``projections`` alone, on features of the frozen towers
    computed once per image and name, for models of a timm image tower and a Hugging Face text tower."""
    augment: bool = True
    """Trains on random crops (the model's own augmentation) rather than on the complete images."""

    def __post_init__(self) -> None:
        bounded("retriever.tuning", self, {"lora_rank": 0, "lora_alpha": 1})
        one_of("retriever.tuning.towers", self.towers, ("image", "text", "both", "projections"))
        check(
            self.towers != "projections" or (self.lora_rank == 0 and not self.augment),
            "retriever.tuning.towers=projections: tunes full projections on cached features; set lora_rank=0 and "
            "augment=false",
        )


@dataclass
class RetrieverArgs:
    """The CLIP encoder, the memory built with it, and how classes are scored."""

    model: str = "nano-clip"
    """Encoder: ``nano-clip`` (embedded), an open_clip model name, ``local-dir:PATH`` or ``hf-hub:OWNER/NAME``; or your
    own, as ``module:function`` or an entry point's name (docs/extending.md)."""
    pretrained: str | None = None
    """open_clip tag of the weights, or their path; not needed with ``nano-clip``, ``local-dir:`` and ``hf-hub:``."""
    tag: str | None = None
    """When ``pretrained`` is a path: the open_clip tag that the weights are or were tuned from, which sets activation
    and preprocessing; ``default`` for weights that open_clip trained from scratch. Null: what all tags of the model
    agree on, else an error."""
    dtype: str = "float32"
    """Data type that the encoder computes in: ``float32`` or ``bfloat16``. Embeddings are float32 either way."""
    templates: list[str] = field(default_factory=list)
    """Prompt templates, averaged, each with one ``{}`` for the class name, such as ``{} texture.``. Empty: the data
    set's own, or else the bare name."""
    descriptions: bool = True
    """Averages the classes' descriptions (``data.descriptions``) into the memory of names: a class's vector is then the
    mean of its name's and of each text's, normalised."""
    batch_size: int = 128
    """Images or texts per forward pass, at least 1."""
    num_workers: int = -1
    """Image decoding processes for each process that embeds; -1: chosen from the number of CPU cores."""
    index: str = "auto"
    """FAISS index: ``flat`` (exact), ``hnsw``, ``ivf``, or ``auto``, which chooses by the number of entries
    (``memory_index.py``)."""
    hnsw: HnswArgs = field(default_factory=HnswArgs)
    """Settings of the HNSW index."""
    ivf: IvfArgs = field(default_factory=IvfArgs)
    """Settings of the IVF index."""
    mmap: bool = False
    """Reads memories from disk during the search, for those larger than RAM; such memories are read-only."""
    aggregate: str = "max"
    """How a class's similarity is computed from its entries: ``max`` (the best entry), ``mean`` (of the ``top_m`` best)
    or ``prototype`` (the normalised mean of its entries)."""
    top_m: int = 3
    """Number of best entries per class that ``aggregate: mean`` averages, at least 1; a class with fewer uses all."""
    candidate_unit: str = "class"
    """``class``: candidates are distinct classes; ``image``: they are the classes of the nearest entries, as in the
    paper's code, so a class can occur twice. Fused candidates are always distinct."""
    initial_fetch: int = 64
    """Number of classes, at least 1, that image and name each propose for a fused score (k if that is more); and of
    entries that are fetched from an approximate index first, and then more until k distinct classes are found."""
    text_weight: float = 0.5
    """Weight of the text similarity in the fused score, 0 to 1; the image similarity has one minus it."""
    regions: RegionArgs = field(default_factory=RegionArgs)
    """How objects are cropped for detection."""
    tuning: TuningArgs = field(default_factory=TuningArgs)
    """How the encoder is tuned."""

    def __post_init__(self) -> None:
        one_of("retriever.index", self.index, ("auto", "flat", "hnsw", "ivf"))
        one_of("retriever.dtype", self.dtype, ("float32", "bfloat16"))
        one_of("retriever.aggregate", self.aggregate, ("max", "mean", "prototype"))
        one_of("retriever.candidate_unit", self.candidate_unit, ("class", "image"))
        check(0 <= self.text_weight <= 1, f"retriever.text_weight={self.text_weight}: must be in 0..1")
        bounded("retriever", self, {"batch_size": 1, "num_workers": -1, "initial_fetch": 1, "top_m": 1})
        for template in self.templates:
            check(
                template.count("{}") == 1 and not set(template.replace("{}", "")) & set("{}"),
                f"retriever.templates: {template!r} needs one {{}} for the class name, and no other braces",
            )
