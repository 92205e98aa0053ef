"""CLIP encoders and a content-addressed embedding cache; may import datasets and below."""
