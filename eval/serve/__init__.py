"""The recognizer as an HTTP service, and its command; may import all rooms of eval but predict and the demo."""
