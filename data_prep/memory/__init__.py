"""The class memory: entries, index and search, and its command; may import embedding and below."""
