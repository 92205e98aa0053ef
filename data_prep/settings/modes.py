"""Names that several sections share."""

MODES = ("likelihood", "letters", "constrained", "generate")
"""How the ranker ranks."""

SCORED = ("likelihood", "letters")
"""The modes that give every candidate a probability; the others write a list."""

SOURCES = ("image", "name", "fused")
"""What candidates come from."""
