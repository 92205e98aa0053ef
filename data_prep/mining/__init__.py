"""Ranking examples out of retrieved candidates, as shards, and their report; may import leakage and below."""
