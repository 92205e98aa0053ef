"""Prompts, strict readers of replies, and targets, as text without torch; may import core and settings."""
