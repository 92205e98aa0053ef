"""Settings of vocabulary-free recognition."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.settings.modes import SOURCES
from data_prep.settings.validate import bounded, check, one_of


@dataclass
class DiscoverArgs:
    """How ``eval.discover`` finds names; ``eval`` has its split, seeds of the draw, k and bootstrap."""

    images: int = 3
    """Unlabelled images per class (FineR's protocol: 3)."""
    draw: str = "balanced"
    """How they are drawn: ``balanced``, as many of each class; ``zipf``, 1 to ``max_images_per_class`` of a class by Zipf's law, the
    protocol's long tail; or ``uniform``, ``images`` per class on average, whatever class each is of."""
    max_images_per_class: int = 10
    """Images of a class at most in ``zipf``."""
    exponent: float = 2.0
    """Of Zipf's law; at 2 about 61 % of the classes have one image, as in FineR's lists."""
    names_per_image: int = 3
    """Names that the MLLM is asked for per image."""
    subject: str | None = None
    """What is to be named, such as ``bird species``; null: what the data set is of, if it is known."""
    prompt: str = ""
    """Asks for the names, as it stands; empty: the project's own, by ``names_per_image`` and ``subject``."""
    reply_tokens: int = 64
    """Tokens that a reply may take."""
    tuned: bool = False
    """Asks the tuned model for names rather than its base, which was not trained to rank alone."""
    vote_by: str = "ranker"
    """Who chooses a name among the guesses that each image retrieves: the ``ranker`` (RAR's way), the ``retriever``
    (FineR's), or ``none``: every guess is kept."""
    min_votes: int = 1
    """Images that must choose a name for it to be kept."""
    memory: str = "name"
    """What test images are compared with: the ``name`` of each class, the ``image``s that chose it, or both,
    ``fused``."""
    alone: bool = True
    """Adds the row ``mllm_alone``: the test images' own first guesses, without memory and ranking."""
    sentences: str = "minilm"
    """Sentence model of sACC: ``minilm``, a folder, a Hugging Face name (the protocol's:
    ``sentence-transformers/all-mpnet-base-v2``), or ``none``, which leaves sACC out."""

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
            f"discover.memory={self.memory}: images stand for the name that they chose; set discover.vote_by=ranker or "
            "retriever",
        )
