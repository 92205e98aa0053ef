"""Training of the embedded nano models from scratch; may import engine and models."""
