"""COCO-style annotations and box proposals; may import memory and below."""
