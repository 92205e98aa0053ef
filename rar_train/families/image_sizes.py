"""Pixel budgets: what limits the size of images, by the settings of each family's processor."""

from __future__ import annotations

import math

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


def volume_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Limits GLM-V's images, whose limits count an image once for each of the frames that a patch spans."""
    area_budget(processor, model, pixels * processor.image_processor.temporal_patch_size)


def longest_edge_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Limits the longer edge of Mistral 3's images to the square root of the budget, but to no less than one patch."""
    patch = processor.patch_size * processor.spatial_merge_size
    processor.image_processor.size = {"longest_edge": max(patch, math.isqrt(pixels))}


def crop_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Limits Molmo2's number of crops, the small view of the whole image included."""
    images = processor.image_processor
    crop = _read_size(images.size, "size", "height") * _read_size(images.size, "size", "width")
    images.max_crops = max(1, pixels // crop - 1)


def slice_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Limits MiniCPM-V's number of slices, the small view of the whole image included."""
    images = processor.image_processor
    images.max_slice_nums = max(1, pixels // images.scale_resolution**2 - 1)


def token_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Limits LFM2-VL's number of tiles, the thumbnail included, or the tokens of an image that is not split."""
    images = processor.image_processor
    tiles = pixels // images.tile_size**2 - 1
    images.do_image_splitting = images.do_image_splitting and tiles >= images.min_tiles
    images.max_tiles = max(images.min_tiles, min(images.max_tiles, tiles))
    tokens = max(1, pixels // (images.encoder_patch_size * images.downsample_factor) ** 2)
    images.max_image_tokens = min(images.max_image_tokens, tokens)
    images.min_image_tokens = min(images.min_image_tokens, images.max_image_tokens)


GEMMA4_TOKENS = (70, 140, 280, 560, 1120)
"""The numbers of tokens that Gemma 4 was trained to see an image with."""


def soft_token_budget(processor: ProcessorMixin, model: nn.Module, pixels: int) -> None:
    """Limits Gemma 4's tokens of an image to the largest number within the budget, or to the smallest there is."""
    images = processor.image_processor
    allowed = pixels // (images.patch_size * images.pooling_kernel_size) ** 2
    images.max_soft_tokens = max(count for count in GEMMA4_TOKENS if count <= max(allowed, GEMMA4_TOKENS[0]))
