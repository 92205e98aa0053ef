"""Checks for training images and near-duplicates among evaluated images; may import memory and below."""
