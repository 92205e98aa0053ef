"""Settings of vocabulary-free recognition (section ``discover``)."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.settings.modes import SOURCES
from data_prep.settings.validate import bounded, check, one_of


@dataclass
class DiscoverArgs:
    """Protocol of ``eval.discover``; section ``eval`` has its split, sampling seeds, k and bootstrap."""

    images: int = 3
    """Unlabelled images per class, at least 1 (3 in FineR's protocol); the average number with ``draw: uniform``."""
    draw: str = "balanced"
    """How the unlabelled images are sampled: ``balanced`` (the same number per class), ``zipf`` (1 to
    ``max_images_per_class`` per class by Zipf's law, the protocol's long tail) or ``uniform`` (``images`` per class on
    average, sampled regardless of class)."""
    max_images_per_class: int = 10
    """Maximum number of images per class with ``draw: zipf``, at least 1."""
    exponent: float = 2.0
    """Exponent of Zipf's law, above 1; with 2 about 61 % of the classes have one image, as in FineR's lists."""
    names_per_image: int = 3
    """Number of names that the MLLM is prompted for per image, at least 1."""
    subject: str | None = None
    """What the images show, for the prompt, such as ``bird species``. Null: the data set's own subject, if known."""
    prompt: str = ""
    """Prompt that requests the names, used verbatim. Empty: the built-in prompt, filled with ``names_per_image`` and
    ``subject``."""
    reply_tokens: int = 64
    """Maximum number of tokens in a reply, at least 1."""
    tuned: bool = False
    """Generates names with the tuned model rather than its base; the tuned model was trained only to rank."""
    vote_by: str = "ranker"
    """What chooses a name among the guesses that an image retrieves: ``ranker`` (as in RAR), ``retriever`` (as in
    FineR), or ``none``, which keeps every guess."""
    min_votes: int = 1
    """Minimum number of images that must choose a name for it to be kept, at least 1."""
    memory: str = "name"
    """What test images are compared with: the ``name`` of each class, the ``image``s that chose it, or both
    (``fused``). ``vote_by: none`` allows ``name`` only."""
    alone: bool = True
    """Adds the row ``mllm_alone``: the MLLM's first guess for each test image, without memory or ranking."""
    sentences: str = "auto"
    """Sentence encoder for sACC (semantic clustering accuracy): ``minilm``, a folder, a Hugging Face name (the
    protocol's is ``sentence-transformers/all-mpnet-base-v2``), or ``none``, which leaves sACC out. ``auto``: ``minilm``
    where its package is installed, else ``none``; the log says so."""

    def __post_init__(self) -> None:
        one_of("discover.draw", self.draw, ("balanced", "zipf", "uniform"))
        one_of("discover.vote_by", self.vote_by, ("ranker", "retriever", "none"))
        one_of("discover.memory", self.memory, SOURCES)
        bounded(
            "discover",
            self,
            dict.fromkeys(("images", "max_images_per_class", "names_per_image", "reply_tokens", "min_votes"), 1),
        )
        check(self.exponent > 1, f"discover.exponent={self.exponent}: must be above 1")
        check(
            self.vote_by != "none" or self.memory == "name",
            f"discover.memory={self.memory}: an image memory needs the names that images voted for; set "
            "discover.vote_by=ranker or retriever",
        )
