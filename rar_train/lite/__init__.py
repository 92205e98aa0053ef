"""The lite models, assembled from published weights; may import models."""
