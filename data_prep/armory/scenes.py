"""Renders scenes: shields of several sizes on one background, each with its box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from data_prep.armory.blazon import Blazon
from data_prep.armory.render import background, corrupt, draw_shield, light, random_pose
from data_prep.settings import SceneArgs

_MIN_RENDER_SIZE = 96  # pixels; small shields are rendered at this size and scaled down, so that edges are smooth
_TRIES = 50  # random positions per shield


def _render_shield(blazon: Blazon, side: int, corruption: float, rng: np.random.Generator) -> Image.Image:
    """Renders a shield in a random pose, cropped to its outline and transparent around it.

    Args:
        blazon: The blazon of the shield.
        side: The longer side of the result, in pixels.
        corruption: Severity of the corruption, 0 to 1.
        rng: Random generator.
    """
    size = max(side, _MIN_RENDER_SIZE)
    shield = draw_shield(blazon).transform((size, size), Image.PERSPECTIVE, random_pose(size, rng), Image.BILINEAR)
    outline = shield.getchannel("A")
    if corruption > 0:
        shield = corrupt(shield.convert("RGB"), corruption, rng)
        shield.putalpha(outline)
    shield = shield.crop(outline.point(lambda value: 255 * (value > 127)).getbbox())
    scale = side / max(shield.size)
    return shield.resize((max(1, round(shield.width * scale)), max(1, round(shield.height * scale))), Image.LANCZOS)


def _max_overlap(boxes: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Computes the maximum overlap of each box with a placed box: intersection over the smaller area, shape ``[n]``."""
    low = np.maximum(boxes[:, None, :2], placed[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], placed[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)
    areas = [(each[:, 2:] - each[:, :2]).prod(-1) for each in (boxes, placed)]
    return (intersection / np.minimum(areas[0][:, None], areas[1][None])).max(1, initial=0)


def _sample_box(
    width: int, height: int, placed: list[tuple[int, ...]], args: SceneArgs, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Returns the first of several random boxes within the allowed overlap, or the one with the least overlap."""
    corners = rng.integers(0, [args.size - width + 1, args.size - height + 1], (_TRIES, 2))
    boxes = np.concatenate([corners, corners + np.array([width, height])], 1)
    overlaps = _max_overlap(boxes, np.array(placed).reshape(-1, 4))
    allowed = np.flatnonzero(overlaps <= args.overlap)
    return tuple(boxes[allowed[0] if len(allowed) else overlaps.argmin()].tolist())


def draw_scene(
    blazons: Sequence[Blazon], args: SceneArgs, corruption: float, rng: np.random.Generator
) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Renders a scene. Large shields are placed first, so that they do not cover small ones.

    Args:
        blazons: The blazons of its shields.
        args: Sizes and overlap.
        corruption: Severity of the corruption of each shield, 0 to 1.
        rng: Samples everything else; the same state gives the same pixels.

    Returns:
        tuple: An RGB image of ``size`` x ``size`` pixels, and a box for each blazon: left, top, right and bottom, in
        integer pixels, inside the image.
    """
    scene = background(args.size, rng)
    log_min, log_max = np.log(args.sides)
    sides = np.round(np.exp(rng.uniform(log_min, log_max, len(blazons)))).astype(int)
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for index in np.argsort(-sides, kind="stable").tolist():
        shield = _render_shield(blazons[index], int(sides[index]), corruption, rng)
        boxes[index] = _sample_box(*shield.size, list(boxes.values()), args, rng)
        scene.paste(shield, boxes[index][:2], shield)
    scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    image = Image.fromarray(light(np.asarray(scene, np.float32), rng).astype(np.uint8))
    return image, [boxes[index] for index in range(len(blazons))]
