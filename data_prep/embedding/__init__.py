"""CLIP encoders, and embeddings that are kept by content; may import datasets and below."""
