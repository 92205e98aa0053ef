"""Ranking examples mined from retrieved candidates, as shards, with a report; may import leakage and below."""
