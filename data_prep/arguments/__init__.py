"""Command lines: parsing with hints, shell completion, and the reference of all settings; imports settings."""
