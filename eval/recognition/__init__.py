"""Retrieve-and-rank recognition as an evaluation; may import ranking, report and below."""
