"""Multimodal LLMs as rankers: loading, LoRA, inputs, scoring; may import rerankers and data_prep."""
