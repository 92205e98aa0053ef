"""Pointwise rerankers: their templates, tokens and heads; may import data_prep."""
