"""Names that several sections share."""

MODES = ("likelihood", "letters", "generate")
"""How the ranker ranks."""

SOURCES = ("image", "name", "fused")
"""What candidates come from."""
