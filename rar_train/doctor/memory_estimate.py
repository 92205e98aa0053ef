"""How much memory a training step takes: a rough figure from shapes, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.settings import Recipe

# Bytes; four bits, with scales, and embeddings left whole.
_WEIGHT = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "4bit": 0.6}
_ADAMW = 8  # two moments in float32
_STORED = (
    17  # values a layer keeps per token and hidden unit: Korthikanti et al., arXiv 2205.05198, eq. 2 without scores
)


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device.

    Attributes:
        weights: The base's.
        adapter: Trained weights and their gradients.
        optimiser: AdamW's moments.
        activations: What a batch's forward pass keeps for the backward pass in the language model.
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
    """Estimates a training step.

    Left out are the vision tower's activations, logits, attention scores, and what the allocator keeps.

    Args:
        recipe: Types, batch size, checkpointing, strategy.
        trainable: Trained parameters.
        total: All parameters, trained ones included.
        hidden: Width of the language model.
        layers: Its layers.
        tokens: Of an example's conversations together.
    """
    trainer, ranker = recipe.trainer, recipe.ranker
    processes = trainer.devices * trainer.num_nodes
    stage = int(trainer.strategy[-1]) if trainer.strategy.startswith("deepspeed") else 0
    kind = ranker.quantize if ranker.quantize != "none" else ranker.dtype
    weights = (total - trainable) * _WEIGHT[kind] / (processes if stage == 3 else 1)
    trained = trainable * 4 / (processes if stage == 3 else 1)
    gradients = trainable * 4 / (processes if stage >= 2 else 1)
    moments = trainable * _ADAMW / (processes if stage >= 1 else 1)
    if trainer.offload in ("optimizer", "all"):
        moments = 0.0
    if trainer.offload == "all":
        weights = trained = 0.0
    value = 2 if "16" in trainer.precision else 4
    per_layer = hidden * tokens * recipe.optim.batch_size * value
    kept = per_layer * (layers + _STORED) if trainer.gradient_checkpointing else per_layer * layers * _STORED
    return Estimate(weights, trained + gradients, moments, kept)


def advice_for(recipe: Recipe, needed: Estimate, available: float) -> str:
    """What to change where a step does not fit, in the order in which it costs least."""
    trainer, ranker, changes = recipe.trainer, recipe.ranker, []
    if needed.activations > 0.3 * available and not trainer.gradient_checkpointing:
        changes.append("trainer.gradient_checkpointing=true")
    if needed.activations > 0.3 * available and recipe.optim.batch_size > 1:
        half = recipe.optim.batch_size // 2
        changes.append(f"optim.batch_size={half} optim.grad_accum_steps={2 * recipe.optim.grad_accum_steps}")
    if needed.weights > 0.5 * available:
        if ranker.dtype == "float32":
            changes.append("ranker.dtype=bfloat16 trainer.precision=bf16-mixed")
        if trainer.strategy == "deepspeed_stage_3":
            changes += ["trainer.offload=all"] if trainer.offload != "all" else []
        elif ranker.quantize == "none":
            changes.append("ranker.quantize=4bit, or trainer.strategy=deepspeed_stage_3 on several GPUs")
    return "; ".join(changes) or "lower optim.batch_size or ranker.max_pixels"
