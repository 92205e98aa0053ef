"""Training of an MLLM's projector; may import engine and models."""
