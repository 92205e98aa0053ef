"""Retrieve-and-rank recognition, as an evaluation and as a Python class; may import ranking, report and below."""
