"""Prompts, reply parsers and training targets, as text without torch; may import core and settings."""
