"""Training of the retriever; may import engine and models."""
