"""Valid values that several sections share."""

MODES = ("likelihood", "letters", "yes_no", "constrained", "generate")
"""Ranking modes."""

SCORED = ("likelihood", "letters", "yes_no")
"""Ranking modes that give every candidate a probability; the others write a list."""

POINTWISE = ("likelihood", "yes_no")
"""Ranking modes that score each candidate by itself: neither the order shown nor the other candidates matter."""

SOURCES = ("image", "name", "fused")
"""Where candidates come from: the image memory, the text memory, or both."""

CLIP_LORA = "clip_lora"
"""A few-shot adapter that is a run of its own, with an encoder for each memory, and a source of candidates."""

ADAPTERS = ("tip", "tip_f", "linear_probe")
"""Few-shot adapters that are fitted to a memory's embeddings; each is a source of candidates too."""
