"""Shared code of the data set readers: file discovery, tables, splits, image checks.

May import armory's level and below.
"""
