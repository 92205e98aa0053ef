"""Multimodal LLMs as rankers: loading, LoRA, inputs, scoring; may import data_prep."""
