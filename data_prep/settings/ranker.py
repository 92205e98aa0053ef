"""Settings of the ranker."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from data_prep.settings.modes import MODES
from data_prep.settings.validate import bounded, check, one_of

SCOPES = ("language", "language+projector", "language+projector+vision")
OBJECTIVES = ("letters", "likelihood", "list", "listwise")
LISTWISE = ("ranknet", "listmle", "softmax")


@dataclass
class LoraArgs:
    """The adapter."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    scope: str = "language"
    """``language``, ``language+projector`` or ``language+projector+vision``. A vision tower out of scope is frozen."""
    target_modules: str | None = None
    """A regular expression of layers to adapt in place of the scope's, such as ``.*language_model.*\\.[qv]_proj``."""
    projector: str = "lora"
    """How a projector in scope is trained: ``lora``, or ``full``, all its weights, which the adapter then holds."""
    dora: bool = False
    """Weight-decomposed adaptation (DoRA, arXiv 2402.09353): a magnitude beside each direction."""
    rslora: bool = False
    """Scales by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732) in place of alpha / rank."""

    def __post_init__(self) -> None:
        bounded("ranker.lora", self, {"rank": 1, "alpha": 1, "dropout": 0}, {"dropout": 0.99})
        one_of("ranker.lora.scope", self.scope, SCOPES)
        one_of("ranker.lora.projector", self.projector, ("lora", "full"))
        if self.target_modules is not None:
            try:
                re.compile(self.target_modules)
            except re.error as error:
                check(False, f"ranker.lora.target_modules={self.target_modules}: not a regular expression ({error})")


@dataclass
class ObjectiveArgs:
    """Weights of the losses, whose weighted sum is trained; one with weight 0 is not computed."""

    letters: float = 1.0
    """Cross-entropy over the candidates' letters."""
    likelihood: float = 1.0
    """Cross-entropy over the candidates' log-likelihoods as names."""
    list: float = 0.0
    """The paper's: language-model loss on the sorted list, truth first."""
    listwise: float = 0.0
    """A ranking loss on the letters' logits against the whole target order: truth first, the others as retrieved."""
    listwise_loss: str = "ranknet"
    """``ranknet`` (with FIRST's weights, arXiv 2406.15657), ``listmle`` or ``softmax``."""

    @property
    def weights(self) -> dict[str, float]:
        """The objectives in use, by name."""
        return {name: getattr(self, name) for name in OBJECTIVES if getattr(self, name) > 0}

    def __post_init__(self) -> None:
        weights = [getattr(self, name) for name in OBJECTIVES]
        check(min(weights) >= 0 and max(weights) > 0, "ranker.objectives: no weight below 0, one above 0")
        one_of("ranker.objectives.listwise_loss", self.listwise_loss, LISTWISE)


@dataclass
class RankerArgs:
    """The MLLM, its adapter and how it ranks."""

    model: str = "nano-mllm"
    """``nano-mllm``, a Hugging Face name, or a folder."""
    dtype: str = "float32"
    """``float32``, ``bfloat16`` or ``float16``: the base's weights; the adapter's are in float32."""
    quantize: str = "none"
    """``none``, or ``4bit``: the base in NF4 below it (QLoRA, arXiv 2305.14314); with CUDA and bitsandbytes."""
    max_pixels: int | None = None
    """Pixels per image in families that take images of any size; null: the processor's own."""
    max_tokens: int | None = None
    """Tokens of a conversation, image and answer included. A longer example is left out and counted, never cut; null:
    as many as the model was made for."""
    lora: LoraArgs = field(default_factory=LoraArgs)
    objectives: ObjectiveArgs = field(default_factory=ObjectiveArgs)
    mode: str = "likelihood"
    """How ``eval.run`` ranks: ``likelihood``, ``letters``, ``constrained`` or ``generate``."""

    def __post_init__(self) -> None:
        one_of("ranker.mode", self.mode, MODES)
        one_of("ranker.dtype", self.dtype, ("float32", "bfloat16", "float16"))
        one_of("ranker.quantize", self.quantize, ("none", "4bit"))
        for key, value in (("max_pixels", self.max_pixels), ("max_tokens", self.max_tokens)):
            check(value is None or value >= 1, f"ranker.{key}={value}: must be at least 1, or null")
