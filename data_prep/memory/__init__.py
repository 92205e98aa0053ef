"""The class memory: entries, vector index, search, and its command; may import embedding and below."""
