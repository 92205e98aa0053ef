"""The generated data set of coats of arms; may import core and settings."""
