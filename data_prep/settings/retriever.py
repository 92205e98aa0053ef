"""Settings of the retriever."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.validate import bounded, check, one_of


@dataclass
class HnswArgs:
    """The graph index."""

    M: int = 32
    """Neighbours that a vector is linked to."""
    ef_construction: int = 80
    """Candidates that are looked at when a vector is added; more take longer and link better."""
    ef_search: int = 128
    """Candidates that are looked at in a search; more take longer and find more."""

    def __post_init__(self) -> None:
        bounded("retriever.hnsw", self, {"M": 4, "ef_construction": 4, "ef_search": 1})


@dataclass
class IvfArgs:
    """The index of lists, one for each region of the space."""

    nlist: int = 0
    """Regions; 0: four times the square root of the number of entries."""
    nprobe: int = 32
    """Lists that a search reads."""

    def __post_init__(self) -> None:
        bounded("retriever.ivf", self, {"nlist": 0, "nprobe": 1})


@dataclass
class RegionArgs:
    """How an object is cut out of its image (paper, section on detection: crop, resize, blur around the target)."""

    size: int = 224
    """Width and height of a region in pixels."""
    small: float = 32
    """An object of this size (square root of its area, in pixels) or less is shown with the most around it."""
    large: float = 96
    """An object of this size or more is shown with the least around it."""
    scale_small: float = 3.0
    """Side of the crop over the object's longer side, for a small object."""
    scale_large: float = 1.0
    """The same for a large object; between the two it falls with the logarithm of the size."""
    blur: float = 0.02
    """Standard deviation of the Gaussian blur outside the object, as a share of the region's side; 0: none."""

    def __post_init__(self) -> None:
        bounded("retriever.regions", self, {"size": 8, "scale_small": 1, "scale_large": 1, "blur": 0}, {"blur": 1})
        check(self.small > 0, f"retriever.regions.small={self.small}: must be above 0")
        check(self.small < self.large, f"retriever.regions.large={self.large}: must be above small, {self.small}")


@dataclass
class TuningArgs:
    """How ``recipe=retriever_clip`` tunes the encoder; ``optim`` has the rest."""

    lora_rank: int = 16
    """Rank of the adapters, which are merged into the weights at the end; 0 tunes all weights."""
    lora_alpha: int = 32
    towers: str = "both"
    """What is tuned: ``image``, ``text`` or ``both``; or ``projections`` alone, on what the frozen towers make of every
    picture and name once, for models of a timm image tower and a Hugging Face text tower."""
    augment: bool = True
    """Shows the model's own random crops of the images rather than the whole."""

    def __post_init__(self) -> None:
        bounded("retriever.tuning", self, {"lora_rank": 0, "lora_alpha": 1})
        one_of("retriever.tuning.towers", self.towers, ("image", "text", "both", "projections"))
        check(
            self.towers != "projections" or (self.lora_rank == 0 and not self.augment),
            "retriever.tuning.towers=projections: tunes whole projections on kept features; set lora_rank=0 and "
            "augment=false",
        )


@dataclass
class RetrieverArgs:
    """The CLIP encoder, the memory made with it, and how classes are scored."""

    model: str = "nano-clip"
    """``nano-clip``, an open_clip model name, ``local-dir:PATH`` or ``hf-hub:OWNER/NAME``."""
    pretrained: str | None = None
    """open_clip tag or path of weights; not needed with nano-clip, ``local-dir:`` and ``hf-hub:``."""
    tag: str | None = None
    """With a path of weights: the open_clip tag that they are or were tuned from, whose activation and preprocessing
    they need; or ``default`` for weights that open_clip trained from scratch. None: those of all the model's tags where
    they agree, else an error."""
    dtype: str = "float32"
    """What the encoder computes in: ``float32`` or ``bfloat16``. Embeddings are float32 either way."""
    templates: list[str] = field(default_factory=list)
    """Prompts around a class name, averaged, such as ``{} texture.``; none: the data set's own, or the bare name."""
    batch_size: int = 128
    """Images or texts per forward pass."""
    num_workers: int = -1
    """Processes that decode images while the encoder runs, for each process that embeds; -1: by the cores there are."""
    index: str = "auto"
    """FAISS index: ``flat`` (exact), ``hnsw``, ``ivf``, or ``auto``: by the number of entries (``memory_index.py``)."""
    hnsw: HnswArgs = field(default_factory=HnswArgs)
    ivf: IvfArgs = field(default_factory=IvfArgs)
    mmap: bool = False
    """Reads memories from disk as they are searched, for those that do not fit; they cannot be changed then."""
    aggregate: str = "max"
    """A class's similarity: its best entry (``max``)'s, the ``mean`` of its ``top_m`` best, or that of its ``prototype``, the
    normalised mean of its entries."""
    top_m: int = 3
    """Entries of a class in ``aggregate: mean``; a class with fewer gives all."""
    candidate_unit: str = "class"
    """Candidates are distinct classes, or with ``image`` the classes of the nearest entries as in the paper's code,
    where a class can stand twice. Fused candidates are always distinct."""
    initial_fetch: int = 64
    """Entries fetched at first for k distinct classes; widened until k are found."""
    text_weight: float = 0.5
    """Weight of the name's similarity in the fused score; the image's is one minus it."""
    regions: RegionArgs = field(default_factory=RegionArgs)
    tuning: TuningArgs = field(default_factory=TuningArgs)

    def __post_init__(self) -> None:
        one_of("retriever.index", self.index, ("auto", "flat", "hnsw", "ivf"))
        one_of("retriever.dtype", self.dtype, ("float32", "bfloat16"))
        one_of("retriever.aggregate", self.aggregate, ("max", "mean", "prototype"))
        one_of("retriever.candidate_unit", self.candidate_unit, ("class", "image"))
        check(0 <= self.text_weight <= 1, f"retriever.text_weight={self.text_weight}: must lie in 0..1")
        bounded("retriever", self, {"batch_size": 1, "num_workers": -1, "initial_fetch": 1, "top_m": 1})
        for template in self.templates:
            check(
                template.count("{}") == 1 and not set(template.replace("{}", "")) & set("{}"),
                f"retriever.templates: {template!r} needs one {{}} for the class name, and no other braces",
            )
