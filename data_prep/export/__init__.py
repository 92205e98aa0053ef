"""Exports ranking examples to the formats of other trainers, and imports theirs; may import mining and below."""
