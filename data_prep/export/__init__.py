"""Ranking examples in the formats of other trainers, and back; may import mining and below."""
