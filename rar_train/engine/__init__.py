"""What every training shares: Trainer, strategies, checkpoints, run folder, tracking; may import models."""
