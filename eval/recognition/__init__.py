"""Retrieve-and-rank recognition, evaluated and as a Python class; may import ranking, report and below."""
