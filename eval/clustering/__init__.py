"""Names matched with classes by clustering scores, and its command; may import metrics."""
