"""Vocabulary-free recognition: discovers class names, and its command; may import ranking, report and below."""
