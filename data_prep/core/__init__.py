"""Shared foundations: records, names, images, files, errors and commands. Imports neither torch nor the settings."""
