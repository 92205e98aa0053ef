"""Tuning images and their copies among evaluated ones; may import memory and below."""
