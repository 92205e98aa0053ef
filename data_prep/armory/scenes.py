"""Draws a scene: shields of several sizes on one background, each with its box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from data_prep.armory.blazon import Blazon
from data_prep.armory.render import background, corrupt, draw_shield, light, random_pose
from data_prep.settings import SceneArgs

_DRAWN = 96  # pixels at least, before a small shield is scaled down, so that its edges come out smooth
_TRIES = 50


def _posed(blazon: Blazon, side: int, weather: float, rng: np.random.Generator) -> Image.Image:
    """A shield in some pose and weather, transparent around it, cut to its outline; ``side`` is its longer side."""
    size = max(side, _DRAWN)
    shield = draw_shield(blazon).transform((size, size), Image.PERSPECTIVE, random_pose(size, rng), Image.BILINEAR)
    outline = shield.getchannel("A")
    if weather > 0:
        shield = corrupt(shield.convert("RGB"), weather, rng)
        shield.putalpha(outline)
    shield = shield.crop(outline.point(lambda value: 255 * (value > 127)).getbbox())
    scale = side / max(shield.size)
    return shield.resize((max(1, round(shield.width * scale)), max(1, round(shield.height * scale))), Image.LANCZOS)


def _shared(boxes: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The most that each box shares with one of those taken, over the smaller of the two; shape ``[n]``."""
    low = np.maximum(boxes[:, None, :2], taken[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], taken[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(-1)
    areas = [(each[:, 2:] - each[:, :2]).prod(-1) for each in (boxes, taken)]
    return (common / np.minimum(areas[0][:, None], areas[1][None])).max(1, initial=0)


def _place(
    width: int, height: int, taken: list[tuple[int, ...]], args: SceneArgs, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """The first of some places by lot that shares little with the boxes there, or the one that shares least."""
    corners = rng.integers(0, [args.size - width + 1, args.size - height + 1], (_TRIES, 2))
    boxes = np.concatenate([corners, corners + np.array([width, height])], 1)
    shared = _shared(boxes, np.array(taken).reshape(-1, 4))
    fit = np.flatnonzero(shared <= args.overlap)
    return tuple(boxes[fit[0] if len(fit) else shared.argmin()].tolist())


def draw_scene(
    blazons: Sequence[Blazon], args: SceneArgs, weather: float, rng: np.random.Generator
) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    """Draws a scene. Large shields are placed first, so that they do not cover small ones.

    Args:
        blazons: What its shields show.
        args: Sizes and overlap.
        weather: How foul the conditions may be, 0 to 1, on each shield.
        rng: Decides everything else; the same state gives the same pixels.

    Returns:
        tuple: An RGB image of ``size`` x ``size`` pixels, and a box for each blazon: left, top, right and bottom, in
        whole pixels, inside the image.
    """
    scene = background(args.size, rng)
    least, most = np.log(args.sides)
    sides = np.round(np.exp(rng.uniform(least, most, len(blazons)))).astype(int)
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for number in np.argsort(-sides, kind="stable").tolist():
        shield = _posed(blazons[number], int(sides[number]), weather, rng)
        boxes[number] = _place(*shield.size, list(boxes.values()), args, rng)
        scene.paste(shield, boxes[number][:2], shield)
    scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    picture = Image.fromarray(light(np.asarray(scene, np.float32), rng).astype(np.uint8))
    return picture, [boxes[number] for number in range(len(blazons))]
