"""Image augmentation: flips, small affine changes and color jitter, for training on few images."""

from __future__ import annotations

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from data_prep.core.images import BACKGROUND

_TRANSFORM = v2.Compose(
    [
        v2.RandomHorizontalFlip(),
        v2.RandomAffine(12, (0.08, 0.08), (0.8, 1.15), interpolation=InterpolationMode.BILINEAR, fill=BACKGROUND),
        v2.ColorJitter(brightness=0.25, contrast=0.25, saturation=0.3, hue=0.04),
    ]
)


def augment(image: Image.Image, seed: int) -> Image.Image:
    """Returns an image that is flipped at random and slightly rotated, shifted, scaled and recolored, on white.

    Args:
        image: RGB image.
        seed: 0 to 2^63 - 1; the same seed gives the same result.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return _TRANSFORM(image)
