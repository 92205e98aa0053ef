"""Multimodal LLMs as rankers: loading, LoRA, inputs, scores; may import data_prep."""
