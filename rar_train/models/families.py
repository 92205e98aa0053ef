"""What differs between the MLLM families: one table, read by one backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from transformers import ProcessorMixin
from transformers.image_utils import SizeDict

from data_prep.core.errors import UserError


def _named(size: SizeDict | dict, where: str, *keys: str) -> int:
    """What the first of the keys says that is there.

    Raises:
        UserError: None is.
    """
    for key in keys:
        if size.get(key) is not None:
            return size.get(key)
    raise UserError(f"ranker.model: in its preprocessor_config.json {where} names no {keys[0]}; add it")


def area_limits(processor: ProcessorMixin) -> None:
    """Gives Qwen-VL's limits the names that its processor reads, where the size has the older ones."""
    images = processor.image_processor
    older = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
    images.size = {key: _named(images.size, "size", key, old) for key, old in older.items()}


def area_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Qwen-VL's: an image keeps its shape and is scaled to at most so many pixels."""
    images = processor.image_processor
    images.size = {"shortest_edge": min(images.size["shortest_edge"], pixels), "longest_edge": pixels}


def tile_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """InternVL's: a number of tiles, the thumbnail counted."""
    images = processor.image_processor
    tiles = pixels // (_named(images.size, "size", "height") * _named(images.size, "size", "width"))
    images.max_patches = max(1, tiles - 1)


def grid_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """LLaVA-NeXT's and OneVision's: the grids within the budget, or the smallest; model and processor must agree."""
    grids = sorted(processor.image_processor.image_grid_pinpoints, key=math.prod)
    kept = [list(grid) for grid in grids if math.prod(grid) <= pixels] or [list(grids[0])]
    processor.image_processor.image_grid_pinpoints = kept
    model.config.image_grid_pinpoints = kept


def edge_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Idefics3's and SmolVLM's: the longer edge in whole tiles; one tile is not split."""
    images = processor.image_processor
    tile = _named(images.max_image_size, "max_image_size", "longest_edge")
    edge = max(1, math.isqrt(pixels) // tile) * tile
    images.size = {"longest_edge": edge}
    images.do_image_splitting = edge > tile


@dataclass(frozen=True)
class Family:
    """Facts about a family, as transformers 5 names its parts.

    Attributes:
        language: Regular expression of the language model's linear layers.
        projector: Regular expression of the projector's linear layers; None where it has none, so that it can
            only be trained whole.
        tower: Regular expression of the vision tower's layers.
        connector: The projector's place in the model.
        vision: The vision tower's place in the model.
        turn_end: The token that ends the assistant's turn; None where it is the tokenizer's end of sequence.
        template: Chat template for families that ship none.
        suffix: Whether the processor takes answers apart from the text and marks them by token type.
        mrope: Whether positions have three parts, so that an image takes fewer of them than tokens.
        settle: Gives the processor's sizes the names that its family reads; None where there are no others.
        budget: Applies a number of pixels per image; None where the size is fixed.
        fixed_tower: Whether the tower embeds images of one size, each on its own, so that features can be kept.
    """

    language: str = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    projector: str | None = r".*multi_modal_projector\.linear(_[12])?"
    tower: str = r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|projection_layer|fc1|fc2)"
    connector: str = "model.multi_modal_projector"
    vision: str = "model.vision_tower"
    turn_end: str | None = None
    template: str | None = None
    suffix: bool = False
    mrope: bool = False
    settle: Callable[[ProcessorMixin], None] | None = None
    budget: Callable[[ProcessorMixin, nn.Module, int], None] | None = None
    fixed_tower: bool = True


_QWEN = Family(
    projector=r".*visual\.(merger|deepstack_merger_list\.\d+)\.(mlp\.[02]|linear_fc[12])",
    tower=r".*visual\.blocks\..*\.(qkv|proj|fc1|fc2|gate_proj|up_proj|down_proj|linear_fc[12])",
    connector="model.visual.merger",
    vision="model.visual",
    mrope=True,
    settle=area_limits,
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
    fixed_tower=False,  # its output depends on a mask of padding beside the pixels
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
    "gemma3": Family(projector=None, turn_end="<end_of_turn>"),
    "paligemma": Family(template=_PALIGEMMA_TEMPLATE, suffix=True),
}
"""By the configuration's ``model_type``."""
