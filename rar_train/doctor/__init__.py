"""Checks of machine, data, models and recipe before a run; may import all other subpackages."""
