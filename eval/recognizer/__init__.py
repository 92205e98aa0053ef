"""Recognition as a Python class: a run, and classes that come and go; may import recognition and below."""
