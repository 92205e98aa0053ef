"""Devices and processes of the data stages; may import core and settings."""
