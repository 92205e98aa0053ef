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
    """How ``task: retriever`` tunes the encoder; section ``optim`` has the rest."""

    loss: str = "contrastive"
    """``contrastive``, between training images and their class names; or ``cross_entropy`` over all class names, with
    the few-shot images of the evaluation's memories (CLIP-LoRA, arXiv 2405.18541): one encoder for each of
    ``eval.shots`` and ``eval.seeds``, of the images that ``eval.split`` draws from."""
    iterations_per_shot: int = 500
    """Optimiser steps for each image per class, at least 1, with ``loss: cross_entropy``, in place of
    ``optim.epochs``."""
    lora_rank: int = 16
    """Rank of the LoRA adapters, which are merged into the weights at the end; 0 tunes all weights."""
    lora_alpha: int = 32
    """Scaling numerator of the adapters, at least 1."""
    lora_layers: str = "linear"
    """What gets an adapter: ``linear``, every attention and linear layer, scaled by ``lora_alpha / lora_rank``; or
    ``qkv``, the query, key and value matrices of every attention layer, each with adapters of its own, scaled by
    ``lora_alpha / sqrt(lora_rank)``, as in CLIP-LoRA's code."""
    lora_dropout: float = 0.0
    """Share of an adapter's inputs (0 to below 1) that are dropped in training; with ``lora_layers: qkv``."""
    towers: str = "both"
    """What is tuned: ``image``, ``text`` or ``both`` towers; or ``projections`` alone, on features of the frozen towers
    computed once per image and name, for models of a timm image tower and a Hugging Face text tower."""
    augment: bool = True
    """Trains on random crops rather than on the complete images."""
    crop_scale: float = 0.9
    """Smallest area of a random crop as a share of the image, above 0 and at most 1; 0.9 is open_clip's own."""
    flip: bool = False
    """Also mirrors half of the crops. Not for classes that differ by left and right."""
    names_per_pass: int = 256
    """Class names per pass of the text tower with ``loss: cross_entropy``, at least 1. With more classes the passes are
    computed again in the backward pass, so that memory holds one at a time."""

    def __post_init__(self) -> None:
        bounded(
            "retriever.tuning",
            self,
            {"lora_rank": 0, "lora_alpha": 1, "iterations_per_shot": 1, "names_per_pass": 1, "lora_dropout": 0},
        )
        one_of("retriever.tuning.loss", self.loss, ("contrastive", "cross_entropy"))
        one_of("retriever.tuning.lora_layers", self.lora_layers, ("linear", "qkv"))
        one_of("retriever.tuning.towers", self.towers, ("image", "text", "both", "projections"))
        check(self.lora_dropout < 1, f"retriever.tuning.lora_dropout={self.lora_dropout}: must be below 1")
        check(0 < self.crop_scale <= 1, f"retriever.tuning.crop_scale={self.crop_scale}: must be above 0, at most 1")
        check(
            self.lora_dropout == 0 or (self.lora_layers == "qkv" and self.lora_rank > 0),
            f"retriever.tuning.lora_dropout={self.lora_dropout}: only with lora_layers=qkv and a lora_rank above 0",
        )
        check(not self.flip or self.augment, "retriever.tuning.flip=true: needs augment=true")
        check(
            self.towers != "projections" or (self.lora_rank == 0 and not self.augment),
            "retriever.tuning.towers=projections: tunes full projections on cached features; set lora_rank=0 and "
            "augment=false",
        )
        check(
            self.towers != "projections" or self.loss == "contrastive",
            "retriever.tuning.loss=cross_entropy: tunes towers; set towers to image, text or both",
        )


@dataclass
class RetrieverArgs:
    """The CLIP encoder, the memory built with it, and how classes are scored."""

    model: str = "nano-clip"
    """Encoder: ``nano-clip`` (embedded), an open_clip model name, ``local-dir:PATH`` or ``hf-hub:OWNER/NAME``; one of
    timm (images alone), transformers or sentence-transformers, as ``timm:``, ``hf:`` or ``st:`` before a name or a
    folder; or your own, as ``module:function`` or an entry point's name (docs/extending.md)."""
    pretrained: str | None = None
    """open_clip or timm tag of the weights, or their path; not needed with ``nano-clip``, and where the name or folder
    includes weights: ``local-dir:``, ``hf-hub:``, ``hf:``, ``st:``, and ``timm:`` with a folder, a repository or a
    name that ends in a tag."""
    tag: str | None = None
    """When ``pretrained`` is a path: the open_clip or timm tag that the weights are or were tuned from, which sets
    activation and preprocessing; ``default`` for weights that open_clip trained from scratch. Null: what all tags of
    the model agree on, else an error."""
    name_model: str | None = None
    """Another encoder for the memory of names, which must embed images and texts: each query is embedded by both,
    compared with images by ``model`` and with names by this one. Null: ``model`` embeds names too."""
    name_pretrained: str | None = None
    """``pretrained`` of ``name_model``."""
    name_tag: str | None = None
    """``tag`` of ``name_model``."""
    image_instruction: str | None = None
    """Instruction that a model of ``st:`` is given with each image. Null: the model's own default."""
    text_instruction: str | None = None
    """Instruction that a model of ``st:`` is given with each name or description. Null: the model's own default."""
    trust_remote_code: bool = False
    """Runs code from the repository of a model of ``hf:`` or ``st:``, which can do anything that you can do."""
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
        for key in ("name_pretrained", "name_tag"):
            given = getattr(self, key)
            check(given is None or bool(self.name_model), f"retriever.{key}={given}: needs retriever.name_model")
        is_instructed = any((model or "").startswith("st:") for model in (self.model, self.name_model))
        for key in ("image_instruction", "text_instruction"):
            check(getattr(self, key) is None or is_instructed, f"retriever.{key}: only a model of st: takes one")
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
