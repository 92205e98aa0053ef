"""Encoders of images and names, and a content-addressed embedding cache; may import datasets and below."""
