"""Shared parts of all trainings: Trainer, strategies, checkpoints, run folder, tracking; may import models."""
