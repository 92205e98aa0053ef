"""Rough estimate of a training step's memory from shapes, before anything runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from data_prep.distributed.devices import local_gpu_index, resolve_accelerator
from data_prep.settings import Recipe, TrainerArgs

# Bytes per parameter; four bits include scales, and embeddings that are not quantised.
_WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "4bit": 0.6}
_ADAMW_BYTES = 8  # two moments in float32
# Values that a decoder layer with LoRA on all its linear layers keeps per token for the backward pass, in multiples of
# its hidden and its intermediate width; measured by tests/rar_train/engine/test_memory_estimate.py. Norms and adapters
# compute in float32, which takes the place of two values in half precision.
_HIDDEN_VALUES = {2: 15, 4: 8}  # by bytes per value
_INTERMEDIATE_VALUES = 4


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model that its memory depends on.

    Attributes:
        trainable: Number of trained parameters.
        total: Number of all parameters, trained ones included.
        hidden: Width of the language model.
        intermediate: Width of its feed-forward layers.
        layers: Number of its layers.
    """

    trainable: int
    total: int
    hidden: int
    intermediate: int
    layers: int

    @classmethod
    def of(cls, config: PreTrainedConfig, trainable: int, total: int) -> ModelSizes:
        """Returns the sizes of a model from its configuration and its numbers of parameters."""
        text = config.get_text_config()
        return cls(trainable, total, text.hidden_size, _feed_forward_width(text.to_dict()), text.num_hidden_layers)


def _feed_forward_width(text: dict[str, Any]) -> int:
    """Returns the width of the feed-forward layers: the widest's, or that of the experts which a token passes."""
    dense = text.get("intermediate_size") or 0
    chosen = text.get("num_experts_per_tok") or text.get("top_k_experts") or 1
    routed = (text.get("moe_intermediate_size") or 0) * chosen
    shared = text.get("shared_expert_intermediate_size") or 0
    return max(max(dense) if isinstance(dense, list) else dense, routed + shared)


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


def estimate(recipe: Recipe, sizes: ModelSizes, tokens: int, checkpointing: bool) -> Estimate:
    """Estimates a training step's memory.

    Not included are the vision tower's activations, logits, attention scores, and the allocator's overhead.

    Args:
        recipe: Gives dtypes, batch size and strategy.
        sizes: The model.
        tokens: Tokens that a step processes for one example.
        checkpointing: Whether activations are recomputed, so that only each layer's input is stored, and one layer's
            activations at a time.
    """
    trainer, ranker = recipe.trainer, recipe.ranker
    processes = trainer.devices * trainer.num_nodes
    stage = trainer.zero_stage
    kind = ranker.quantize if ranker.quantize != "none" else ranker.dtype
    weights = (sizes.total - sizes.trainable) * _WEIGHT_BYTES[kind] / (processes if stage == 3 else 1)
    trained = sizes.trainable * 4 / (processes if stage == 3 else 1)
    gradients = sizes.trainable * 4 / (processes if stage >= 2 else 1)
    moments = sizes.trainable * _ADAMW_BYTES / (processes if stage >= 1 else 1)
    if trainer.offload in ("optimizer", "all"):
        moments = 0.0
    if trainer.offload == "all":
        weights = trained = 0.0
    value_bytes = 2 if "16" in trainer.precision else 4
    layer = _HIDDEN_VALUES[value_bytes] * sizes.hidden + _INTERMEDIATE_VALUES * sizes.intermediate
    stored = sizes.layers * sizes.hidden + layer if checkpointing else sizes.layers * layer
    activations = stored * tokens * recipe.optim.batch_size * value_bytes
    return Estimate(weights, trained + gradients, moments, activations)


def device_memory(args: TrainerArgs) -> float | None:
    """Returns the memory in bytes of this process's device, in all; None where the system does not report it.

    Processes on a CPU share the machine's memory evenly.
    """
    kind = resolve_accelerator(args)
    if kind == "cuda":
        return torch.cuda.get_device_properties(local_gpu_index()).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / args.devices
    except (AttributeError, OSError, ValueError):  # not POSIX, or without these names
        return None
