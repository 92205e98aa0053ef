"""Pictures altered as another artist or camera might have had them, to train on more than there are."""

from __future__ import annotations

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from data_prep.core.images import BACKGROUND

_ALTER = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomAffine(12, (0.08, 0.08), (0.8, 1.15), interpolation=InterpolationMode.BILINEAR, fill=BACKGROUND),
        v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.3, hue=0.04),
    ]
)


def augment(image: Image.Image, seed: int) -> Image.Image:
    """A picture mirrored or not, and a little turned, shifted, scaled and recoloured, on white.

    Args:
        image: In RGB.
        seed: 0 to 2^63 - 1; the same one alters the same picture alike.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return _ALTER(image)
