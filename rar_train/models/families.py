"""Table of the supported MLLM families: everything that differs between them, read by one backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import ProcessorMixin
from transformers.image_utils import SizeDict

from data_prep.core.errors import UserError


def _read_size(size: SizeDict | dict, section: str, *keys: str) -> int:
    """Returns the value of the first of the keys that is present.

    Raises:
        UserError: None is present.
    """
    for key in keys:
        if size.get(key) is not None:
            return size.get(key)
    raise UserError(f"ranker.model: in its preprocessor_config.json {section} has no {keys[0]}; add it")


def rename_area_limits(processor: ProcessorMixin) -> None:
    """Renames Qwen-VL's pixel limits to the names that its processor reads, where the files use the older ones."""
    images = processor.image_processor
    old_names = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
    images.size = {key: _read_size(images.size, "size", key, old) for key, old in old_names.items()}


def area_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Limits Qwen-VL's images to ``pixels`` pixels; the aspect ratio is kept."""
    images = processor.image_processor
    images.size = {"shortest_edge": min(images.size["shortest_edge"], pixels), "longest_edge": pixels}


def tile_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Limits InternVL's number of tiles, the thumbnail included."""
    images = processor.image_processor
    tiles = pixels // (_read_size(images.size, "size", "height") * _read_size(images.size, "size", "width"))
    images.max_patches = max(1, tiles - 1)


def grid_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Keeps LLaVA-NeXT's and OneVision's grids within the budget, or the smallest, in processor and model alike."""
    grids = sorted(processor.image_processor.image_grid_pinpoints, key=math.prod)
    within_budget = [list(grid) for grid in grids if math.prod(grid) <= pixels] or [list(grids[0])]
    processor.image_processor.image_grid_pinpoints = within_budget
    model.config.image_grid_pinpoints = within_budget


def edge_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Limits the longer edge of Idefics3's and SmolVLM's images to a multiple of the tile; one tile is not split."""
    images = processor.image_processor
    tile = _read_size(images.max_image_size, "max_image_size", "longest_edge")
    edge = max(1, math.isqrt(pixels) // tile) * tile
    images.size = {"longest_edge": edge}
    images.do_image_splitting = edge > tile


@dataclass(frozen=True)
class Family:
    """Properties of a family, with module names as in transformers 5.

    Attributes:
        language: Regular expression of the language model's linear layers.
        projector: Regular expression of the projector's linear layers; None where it has none, so that LoRA does not
            fit and only full training remains.
        tower: Regular expression of the vision tower's layers.
        connector: Module path of the projector.
        vision: Module path of the vision tower.
        turn_end: The token that ends the assistant's turn; None where it is the tokenizer's end of sequence.
        template: Chat template for families that ship none.
        suffix: Whether the processor takes answers separately from the text and marks them by token type.
        bidirectional: Which tokens see those after them: ``none``, those of each ``image``, or the whole ``prompt``.
        softcap: Whether the logits are capped by the text configuration's ``final_logit_softcapping``.
        mrope: Whether positions have three components (M-RoPE), so that an image takes fewer positions than tokens.
        rename_sizes: Renames size settings in older files to what the processor reads; None where names never changed.
        budget: Applies a maximum number of pixels per image; None where the size is fixed.
        fixed_tower: Whether the tower embeds images of one size, each independently, so that features can be cached.
    """

    language: str = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    projector: str | None = r".*multi_modal_projector\.linear(_[12])?"
    tower: str = r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|projection_layer|fc1|fc2)"
    connector: str = "model.multi_modal_projector"
    vision: str = "model.vision_tower"
    turn_end: str | None = None
    template: str | None = None
    suffix: bool = False
    bidirectional: str = "none"
    softcap: bool = False
    mrope: bool = False
    rename_sizes: Callable[[ProcessorMixin], None] | None = None
    budget: Callable[[ProcessorMixin, nn.Module, int], None] | None = None
    fixed_tower: bool = True


_QWEN = Family(
    projector=r".*visual\.(merger|deepstack_merger_list\.\d+)\.(mlp\.[02]|linear_fc[12])",
    tower=r".*visual\.blocks\..*\.(qkv|proj|fc1|fc2|gate_proj|up_proj|down_proj|linear_fc[12])",
    connector="model.visual.merger",
    vision="model.visual",
    mrope=True,
    rename_sizes=rename_area_limits,
    budget=area_budget,
    fixed_tower=False,
)
_IDEFICS = Family(
    language=r".*text_model.*\.(q|k|v|o|gate|up|down)_proj",
    projector=r".*connector\.modality_projection\.proj",
    tower=r".*vision_model.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
    connector="model.connector",
    vision="model.vision_model",
    turn_end="<end_of_utterance>",
    budget=edge_budget,
    fixed_tower=False,  # its output depends on a padding mask in addition to the pixels
)
_PALIGEMMA_TEMPLATE = (
    "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}"
)

FAMILIES = {
    "llava": Family(),
    "name_llava": Family(projector=r".*multi_modal_projector\.readers\.\d+\.(place|layout|texture|head)"),
    "llava_next": Family(budget=grid_budget),
    "llava_onevision": Family(budget=grid_budget),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "internvl": Family(budget=tile_budget),
    "idefics3": _IDEFICS,
    "smolvlm": _IDEFICS,
    "gemma3": Family(projector=None, turn_end="<end_of_turn>", bidirectional="image"),
    "paligemma": Family(template=_PALIGEMMA_TEMPLATE, suffix=True, bidirectional="prompt", softcap=True),
}
"""Families by the ``model_type`` of a model's configuration."""
