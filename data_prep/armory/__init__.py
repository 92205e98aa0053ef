"""The procedural data set of coats of arms: its vocabulary and rendering; may import core and settings."""
