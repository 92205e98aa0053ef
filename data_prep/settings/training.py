"""Settings of the optimiser, the trainer and tracking (sections ``optim``, ``trainer`` and ``tracking``)."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.settings.validate import bounded, check, one_of

STRATEGIES = ("auto", "ddp", "deepspeed_stage_1", "deepspeed_stage_2", "deepspeed_stage_3")


@dataclass
class OptimArgs:
    """The optimiser, AdamW with warm-up and a learning rate schedule."""

    lr: float = 1e-3
    """Peak learning rate, at least 0."""
    weight_decay: float = 0.01
    """Weight decay of AdamW, at least 0."""
    warmup_ratio: float = 0.05
    """Fraction of the steps, 0 to 1, over which the learning rate warms up; it then decays along a cosine."""
    epochs: int = 1
    """Number of epochs, at least 1."""
    batch_size: int = 16
    """Examples per process and forward pass, at least 1."""
    grad_accum_steps: int = 1
    """Forward passes per optimiser step, at least 1; their gradients are accumulated."""
    group_by_length: bool = False
    """Batches examples of similar length together, to reduce padding; the order of batches stays random. Not with
    ``mining.streaming``."""
    fused: bool | None = None
    """Runs AdamW as one fused kernel per step. Null: when the optimiser is offloaded, and on a GPU except in
    ``16-mixed``, where fused gradients cannot be clipped."""
    max_steps: int = -1
    """Maximum number of optimiser steps, at least 1; -1: no limit, train for all epochs."""

    def __post_init__(self) -> None:
        minimum = {"lr": 0, "weight_decay": 0, "warmup_ratio": 0, "epochs": 1, "batch_size": 1, "grad_accum_steps": 1}
        bounded("optim", self, minimum, {"warmup_ratio": 1})
        check(
            self.max_steps == -1 or self.max_steps >= 1,
            f"optim.max_steps={self.max_steps}: must be at least 1, or -1 for no limit",
        )


@dataclass
class TrainerArgs:
    """Lightning's Trainer: devices, precision, validation and checkpoints."""

    strategy: str = "auto"
    """Distributed strategy: ``auto``, ``ddp``, ``deepspeed_stage_1``, ``deepspeed_stage_2`` or ``deepspeed_stage_3``;
    also across CPU processes."""
    offload: str = "none"
    """What DeepSpeed keeps in host memory: ``none``, ``optimizer``, or ``all`` (the parameters too; stage 3 only)."""
    accelerator: str = "auto"
    """Device type: ``auto`` (a GPU if there is one), ``cpu``, ``gpu`` (``cuda`` is the same) or ``mps`` (an Apple GPU,
    for one process)."""
    devices: int = 1
    """Number of devices (processes) per machine, at least 1."""
    num_workers: int | str = "auto"
    """Processes per device that read and prepare batches while the model runs, at least 0; 0: the process itself does.
    ``auto``: this machine's cores divided among its processes, less one for the process itself, 8 at most; 0 without a
    CUDA GPU, where model and workers would compete for the cores. The number changes no result."""
    num_nodes: int = 1
    """Number of machines, at least 1."""
    precision: str = "32-true"
    """Numeric precision of the training: ``32-true``, ``bf16-mixed`` or ``16-mixed``."""
    grad_clip_norm: float = 1.0
    """Maximum gradient norm; larger gradients are scaled down to it; 0: no clipping."""
    log_every: int = 10
    """Optimiser steps between log entries, at least 1."""
    checkpoint_every: int = 50
    """Optimiser steps between checkpoints, and between validations; at least 1. Both are also made at the end, and at
    least four times in a run; in a short one the steps between them are fewer."""
    val_examples: int = 200
    """Number of validation examples ranked by letters and by likelihood in each validation, at least 1."""
    val_generate_examples: int = 16
    """How many of them are also ranked by generating the list, which is slowest; 0: none."""
    patience: int = 0
    """Stops after this many validations without a better accuracy of ``ranker.mode``; 0: never."""
    adapter: str = "last"
    """Which checkpoint becomes the run's adapter: ``last``, or ``best`` by validation accuracy of ``ranker.mode``. The
    best checkpoint is kept in either case."""
    gradient_checkpointing: bool | str = "auto"
    """Recomputes activations in the backward pass: less memory, more time. ``auto``: where a step is estimated not to
    fit in the device's memory without it; the log gives the numbers."""
    feature_cache: bool = False
    """Caches a frozen vision tower's features of every image on disk, for later epochs and runs. Not with
    ``deepspeed_stage_3``."""
    feature_views: int = 1
    """Number of views of each training image that ``task: projector`` alternates between, at least 1: the image itself,
    then mirrored, rotated, shifted and recoloured versions."""
    compile: bool = False
    """Compiles the decoder's layers with ``torch.compile``, for long runs on a GPU. No speed-up on two CPU cores
    (``benchmarks/train_step.py``); not measured on a GPU."""
    progress: str = "auto"
    """Progress bar: ``on``, ``off``, or ``auto`` (on when standard error is a terminal). Without it the log has a line
    every 30 seconds and for each validation."""
    resume: bool = True
    """Continues from the last checkpoint in the run folder; false starts the run from the beginning."""

    def __post_init__(self) -> None:
        positive = ("devices", "num_nodes", "log_every", "checkpoint_every", "val_examples", "feature_views")
        non_negative = ("grad_clip_norm", "val_generate_examples", "patience")
        bounded("trainer", self, dict.fromkeys(positive, 1) | dict.fromkeys(non_negative, 0))
        check(
            self.num_workers == "auto" or (isinstance(self.num_workers, int) and self.num_workers >= 0),
            f"trainer.num_workers={self.num_workers}: must be a whole number, at least 0, or auto",
        )
        check(
            self.gradient_checkpointing == "auto" or isinstance(self.gradient_checkpointing, bool),
            f"trainer.gradient_checkpointing={self.gradient_checkpointing}: must be auto, true or false",
        )
        half_dtype = {"bf16-true": "bfloat16", "16-true": "float16"}.get(self.precision)
        check(
            half_dtype is None,
            f"trainer.precision={self.precision}: loses small updates and position frequencies to rounding; set "
            f"{self.precision.replace('true', 'mixed')}, with ranker.dtype={half_dtype} for a base of half the size",
        )
        one_of("trainer.precision", self.precision, ("32-true", "16-mixed", "bf16-mixed"))
        one_of("trainer.strategy", self.strategy, STRATEGIES)
        one_of("trainer.accelerator", self.accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
        one_of("trainer.offload", self.offload, ("none", "optimizer", "all"))
        one_of("trainer.adapter", self.adapter, ("last", "best"))
        one_of("trainer.progress", self.progress, ("auto", "on", "off"))
        check(
            self.offload == "none" or bool(self.zero_stage),
            f"trainer.offload={self.offload}: only DeepSpeed offloads; set trainer.strategy=deepspeed_stage_2 or _3",
        )
        check(
            self.offload != "all" or self.zero_stage == 3,
            "trainer.offload=all: parameters are offloaded by trainer.strategy=deepspeed_stage_3 alone; set it, or "
            "trainer.offload=optimizer",
        )

    @property
    def zero_stage(self) -> int:
        """The ZeRO stage of a DeepSpeed strategy (1 to 3), or 0 for any other strategy."""
        return int(self.strategy[-1]) if self.strategy.startswith("deepspeed") else 0


@dataclass
class TrackingArgs:
    """Weights & Biases and TensorBoard; CSV logs are always written as well."""

    wandb: str = "offline"
    """Mode of Weights & Biases: ``offline``, ``online`` or ``disabled``."""
    project: str = "rar"
    """Project name in Weights & Biases."""
    entity: str | None = None
    """User or team in Weights & Biases. Null: the account's default."""
    tensorboard: bool = False
    """Also writes TensorBoard event files, into ``RUN/tensorboard``."""
    pictures: int = 8
    """Number of validation examples whose images and rankings each validation logs to the trackers; 0: none."""

    def __post_init__(self) -> None:
        one_of("tracking.wandb", self.wandb, ("offline", "online", "disabled"))
        bounded("tracking", self, {"pictures": 0})
