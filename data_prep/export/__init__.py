"""Exports ranking examples to the formats of other trainers, and imports RAR's; may import mining and below."""
