"""The lite models, put together from published weights; may import models."""
