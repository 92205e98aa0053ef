"""Settings of the retriever."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.checks import bounded, check, one_of


@dataclass
class RetrieverArgs:
    """The CLIP encoder and the memory made with it."""

    model: str = "nano-clip"
    """``nano-clip``, an open_clip model name, ``local-dir:PATH`` or ``hf-hub:OWNER/NAME``."""
    pretrained: str | None = None
    """open_clip tag or path of weights; not needed with nano-clip, ``local-dir:`` and ``hf-hub:``."""
    templates: list[str] = field(default_factory=list)
    """Prompts around a class name, averaged, such as ``{} texture.``; none: the data set's own, or the bare name."""
    batch_size: int = 128
    """Images or texts per forward pass."""
    workers: int = 0
    """Processes that decode images."""
    index: str = "flat"
    """FAISS index: ``flat`` (exact)."""
    pool: int = 64
    """Entries fetched at first for k distinct classes; widened until k are found."""
    fusion: float = 0.5
    """Weight of the name's similarity in the fused score; the image's is one minus it."""

    def __post_init__(self) -> None:
        one_of("retriever.index", self.index, ("flat",))
        check(0 <= self.fusion <= 1, f"retriever.fusion={self.fusion}: must lie in 0..1")
        bounded("retriever", self, {"batch_size": 1, "workers": 0, "pool": 1})
        for template in self.templates:
            check(
                template.count("{}") == 1 and not set(template.replace("{}", "")) & set("{}"),
                f"retriever.templates: {template!r} needs one {{}} for the class name, and no other braces",
            )
