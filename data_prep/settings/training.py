"""Settings of optimiser, Trainer and tracking."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.settings.validate import bounded, check, one_of

STRATEGIES = ("auto", "ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")


@dataclass
class OptimArgs:
    """The optimiser."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup_ratio: float = 0.05
    """Share of the steps that warm up."""
    epochs: int = 1
    batch_size: int = 16
    """Examples per process and forward pass."""
    grad_accum_steps: int = 1
    """Forward passes per step."""
    group_by_length: bool = False
    """Batches of examples of like length, so that less is padded; the order of batches stays random."""
    fused: bool | None = None
    """AdamW in one kernel per step; null: where it is offloaded, and on a GPU, except in ``16-mixed``, where its
    gradients can't be clipped."""
    max_steps: int = -1
    """Stops early after so many optimiser steps; -1: after the epochs."""

    def __post_init__(self) -> None:
        least = {"lr": 0, "weight_decay": 0, "warmup_ratio": 0, "epochs": 1, "batch_size": 1, "grad_accum_steps": 1}
        bounded("optim", self, least, {"warmup_ratio": 1})
        check(self.max_steps == -1 or self.max_steps >= 1, f"optim.max_steps={self.max_steps}: at least 1, or -1")


@dataclass
class TrainerArgs:
    """Lightning's Trainer."""

    strategy: str = "auto"
    """``auto``, ``ddp``, or ``deepspeed_stage_1``, ``_2``, ``_3``; also on CPU processes."""
    offload: str = "none"
    """What DeepSpeed keeps in the host's memory: ``none``, ``optimizer``, or ``all`` (stage 3: the parameters too)."""
    accelerator: str = "auto"
    devices: int = 1
    num_workers: int = 0
    """Processes beside each device's that read examples and prepare batches."""
    num_nodes: int = 1
    precision: str = "32-true"
    """``32-true``, ``bf16-mixed`` or ``16-mixed``."""
    grad_clip_norm: float = 1.0
    log_every: int = 10
    """Steps."""
    checkpoint_every: int = 50
    """Steps between checkpoints, and between validations."""
    val_examples: int = 200
    """Development examples that a validation ranks by letters and by likelihood."""
    val_generate_examples: int = 16
    """As many of them are also ranked by the written list, which takes longest; 0: none."""
    patience: int = 0
    """Stops after so many validations without a better accuracy of ``ranker.mode``; 0: never."""
    adapter: str = "last"
    """Which checkpoint's adapter is the run's: the ``last``, or the ``best`` by validation accuracy of ``ranker.mode``.
    The best checkpoint is kept in either case."""
    gradient_checkpointing: bool = False
    """Recomputes activations in the backward pass: less memory, more time."""
    feature_cache: bool = False
    """Keeps a frozen vision tower's features of every image on disk, for later epochs, objectives and runs."""
    feature_views: int = 1
    """Views of each training picture that ``task: projector`` trains on, by turns: itself, and mirrored, turned, shifted
    and recoloured ones."""
    compile: bool = False
    """Compiles the decoder's layers with ``torch.compile``: for long runs on a GPU, where its gain was not measured;
    on two CPU cores there was none (``benchmarks/train_step.py``)."""
    progress: str = "auto"
    """Progress bar: ``on``, ``off``, or ``auto``, where standard error is a terminal."""
    resume: bool = True
    """Goes on from the run folder's last checkpoint; false starts the run anew."""

    def __post_init__(self) -> None:
        counts = ("devices", "num_nodes", "log_every", "checkpoint_every", "val_examples", "feature_views")
        from_zero = ("grad_clip_norm", "num_workers", "val_generate_examples", "patience")
        bounded("trainer", self, dict.fromkeys(counts, 1) | dict.fromkeys(from_zero, 0))
        half = {"bf16-true": "bfloat16", "16-true": "float16"}.get(self.precision)
        check(
            half is None,
            f"trainer.precision={self.precision}: rounds small steps away, and the frequencies of positions; take "
            f"{self.precision.replace('true', 'mixed')}, with ranker.dtype={half} for a base of half the size",
        )
        one_of("trainer.precision", self.precision, ("32-true", "16-mixed", "bf16-mixed"))
        one_of("trainer.strategy", self.strategy, STRATEGIES)
        one_of("trainer.offload", self.offload, ("none", "optimizer", "all"))
        one_of("trainer.adapter", self.adapter, ("last", "best"))
        one_of("trainer.progress", self.progress, ("auto", "on", "off"))
        check(
            self.offload == "none" or self.strategy.startswith("deepspeed"),
            f"trainer.offload={self.offload}: only DeepSpeed offloads; set trainer.strategy=deepspeed_stage_2 or _3",
        )
        check(
            self.offload != "all" or self.strategy == "deepspeed_stage_3",
            "trainer.offload=all: parameters are offloaded by trainer.strategy=deepspeed_stage_3 alone; use optimizer",
        )


@dataclass
class TrackingArgs:
    """Weights & Biases and TensorBoard; CSV is always written beside them."""

    wandb: str = "offline"
    """``offline``, ``online`` or ``disabled``."""
    project: str = "rar"
    entity: str | None = None
    tensorboard: bool = False
    """Also writes TensorBoard's event files, into ``RUN/tensorboard``."""
    pictures: int = 8
    """Development examples whose pictures and rankings a validation shows in the trackers; 0: none."""

    def __post_init__(self) -> None:
        one_of("tracking.wandb", self.wandb, ("offline", "online", "disabled"))
        bounded("tracking", self, {"pictures": 0})
