"""Rough estimate of a training step's memory from shapes, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.settings import Recipe

# Bytes per parameter; four bits include scales, and embeddings that are not quantised.
_WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "4bit": 0.6}
_ADAMW_BYTES = 8  # two moments in float32
# Values a layer stores per token and hidden unit: Korthikanti et al., arXiv 2205.05198, eq. 2 without scores.
_STORED_VALUES = 17


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device.

    Attributes:
        weights: The base's weights.
        adapter: Trained weights and their gradients.
        optimiser: AdamW's moments.
        activations: Activations of a batch in the language model that are stored for the backward pass.
    """

    weights: float
    adapter: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        """The sum, in bytes."""
        return self.weights + self.adapter + self.optimiser + self.activations

    def __str__(self) -> str:
        parts = {
            "weights": self.weights, "adapter and gradients": self.adapter, "AdamW": self.optimiser,
            "activations": self.activations,
        }  # fmt: skip
        listed = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in parts.items())
        return f"about {self.total / 2**30:.1f} GiB a device ({listed})"


def estimate(recipe: Recipe, trainable: int, total: int, hidden: int, layers: int, tokens: int) -> Estimate:
    """Estimates a training step's memory.

    Not included are the vision tower's activations, logits, attention scores, and the allocator's overhead.

    Args:
        recipe: Gives dtypes, batch size, checkpointing and strategy.
        trainable: Number of trained parameters.
        total: Number of all parameters, trained ones included.
        hidden: Width of the language model.
        layers: Number of its layers.
        tokens: Total length of an example's conversations.
    """
    trainer, ranker = recipe.trainer, recipe.ranker
    processes = trainer.devices * trainer.num_nodes
    stage = trainer.zero_stage
    kind = ranker.quantize if ranker.quantize != "none" else ranker.dtype
    weights = (total - trainable) * _WEIGHT_BYTES[kind] / (processes if stage == 3 else 1)
    trained = trainable * 4 / (processes if stage == 3 else 1)
    gradients = trainable * 4 / (processes if stage >= 2 else 1)
    moments = trainable * _ADAMW_BYTES / (processes if stage >= 1 else 1)
    if trainer.offload in ("optimizer", "all"):
        moments = 0.0
    if trainer.offload == "all":
        weights = trained = 0.0
    value = 2 if "16" in trainer.precision else 4
    per_layer = hidden * tokens * recipe.optim.batch_size * value
    stored = layers + _STORED_VALUES if trainer.gradient_checkpointing else layers * _STORED_VALUES
    return Estimate(weights, trained + gradients, moments, per_layer * stored)


def suggest_changes(recipe: Recipe, needed: Estimate, available: float) -> str:
    """Suggests settings to change where a step does not fit, the cheapest first."""
    trainer, ranker, changes = recipe.trainer, recipe.ranker, []
    if needed.activations > 0.3 * available and not trainer.gradient_checkpointing:
        changes.append("trainer.gradient_checkpointing=true")
    if needed.activations > 0.3 * available and recipe.optim.batch_size > 1:
        half = recipe.optim.batch_size // 2
        changes.append(f"optim.batch_size={half} optim.grad_accum_steps={2 * recipe.optim.grad_accum_steps}")
    if needed.weights > 0.5 * available:
        if ranker.dtype == "float32":
            changes.append("ranker.dtype=bfloat16 trainer.precision=bf16-mixed")
        if trainer.zero_stage == 3:
            changes += ["trainer.offload=all"] if trainer.offload != "all" else []
        elif ranker.quantize == "none":
            changes.append("ranker.quantize=4bit, or trainer.strategy=deepspeed_stage_3 on several GPUs")
    return "; ".join(changes) or "lower optim.batch_size or ranker.max_pixels"
