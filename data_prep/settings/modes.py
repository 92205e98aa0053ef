"""Valid values that several sections share."""

MODES = ("likelihood", "letters", "constrained", "generate")
"""Ranking modes."""

SCORED = ("likelihood", "letters")
"""Ranking modes that give every candidate a probability; the others write a list."""

SOURCES = ("image", "name", "fused")
"""Where candidates come from: the image memory, the text memory, or both."""
