"""Clustering and semantic accuracy of guessed class names, and its command; may import metrics."""
