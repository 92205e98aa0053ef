"""Training of the ranker; may import engine and models."""
