"""Renders a blazon as an image: a shield with random pose, background, occlusion, lighting, blur and noise."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_prep.armory.blazon import Blazon

# RGB colours of the tinctures. Lighting and noise change them, so similar ones such as or and argent can be confused in
# an image, as in photographs.
COLOURS = {
    "or": (236, 190, 50),
    "argent": (236, 236, 232),
    "azure": (44, 88, 188),
    "gules": (196, 36, 44),
    "sable": (38, 36, 40),
    "vert": (36, 138, 66),
    "purpure": (130, 52, 150),
    "tenny": (206, 112, 30),
}

CANVAS = 160  # pixels; larger than the final image, so that edges are smooth
_WIDTH, _HEIGHT = 120, 140
_LEFT, _TOP = (CANVAS - _WIDTH) // 2, (CANVAS - _HEIGHT) // 2
_CENTRE = (CANVAS / 2, _TOP + 62)
_CHARGE_RADIUS = {1: 26, 2: 23, 3: 21, 4: 19}
_CHARGE_OFFSETS = {
    1: ((0, 0),),
    2: ((-28, 0), (28, 0)),
    3: ((-28, -26), (28, -26), (0, 26)),
    4: ((-28, -26), (28, -26), (-26, 26), (26, 26)),
}


def _outline() -> list[tuple[float, float]]:
    """Returns the outline of a heater shield: straight shoulders, then two arcs that meet in a point."""
    steps = [i / 12 for i in range(13)]
    right = [(_LEFT + _WIDTH - _WIDTH / 2 * t**2.2, _TOP + _HEIGHT * (0.45 + 0.55 * t)) for t in steps]
    left = [(2 * _CENTRE[0] - x, y) for x, y in reversed(right)]
    return [(_LEFT, _TOP), (_LEFT + _WIDTH, _TOP), *right, *left]


def _shield_mask() -> Image.Image:
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    ImageDraw.Draw(mask).polygon(_outline(), fill=255)
    return mask


def _band(draw: ImageDraw.ImageDraw, start, end, width: float, colour) -> None:
    """Draws a straight band from start to end, as a polygon, since PIL's wide lines have ragged ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    scale = width / 2 / math.hypot(dx, dy)
    nx, ny = -dy * scale, dx * scale
    draw.polygon(
        [
            (start[0] + nx, start[1] + ny),
            (end[0] + nx, end[1] + ny),
            (end[0] - nx, end[1] - ny),
            (start[0] - nx, start[1] - ny),
        ],
        fill=colour,
    )


def _draw_field(draw: ImageDraw.ImageDraw, blazon: Blazon) -> None:
    draw.rectangle((0, 0, CANVAS, CANVAS), fill=COLOURS[blazon.field])
    cx, cy = _CENTRE
    if blazon.division == "per pale":
        draw.rectangle((cx, 0, CANVAS, CANVAS), fill=COLOURS[blazon.field2])
    elif blazon.division == "per fess":
        draw.rectangle((0, cy, CANVAS, CANVAS), fill=COLOURS[blazon.field2])
    elif blazon.division == "per bend":
        reach = CANVAS
        draw.polygon(
            [(cx - reach, cy - reach), (cx + reach, cy + reach), (cx - reach, cy + reach)],
            fill=COLOURS[blazon.field2],
        )
    elif blazon.division == "quarterly":
        draw.rectangle((cx, 0, CANVAS, cy), fill=COLOURS[blazon.field2])
        draw.rectangle((0, cy, cx, CANVAS), fill=COLOURS[blazon.field2])


def _draw_ordinary(draw: ImageDraw.ImageDraw, blazon: Blazon) -> None:
    colour = COLOURS[blazon.ordinary_tincture]
    cx, cy = _CENTRE
    width, reach = 30, CANVAS
    bend = ((cx - reach, cy - reach), (cx + reach, cy + reach))
    sinister = ((cx + reach, cy - reach), (cx - reach, cy + reach))
    pale = ((cx, 0), (cx, CANVAS))
    fess = ((0, cy), (CANVAS, cy))
    chevron = (
        ((cx + 8, cy - 26), (cx - reach, cy - 18 + reach * 0.85)),
        ((cx - 8, cy - 26), (cx + reach, cy - 18 + reach * 0.85)),
    )
    bands = {
        "bend": (bend,),
        "bend sinister": (sinister,),
        "fess": (fess,),
        "pale": (pale,),
        "chevron": chevron,
        "cross": (pale, fess),
        "saltire": (bend, sinister),
        "chief": (((0, _TOP + 18), (CANVAS, _TOP + 18)),),
    }[blazon.ordinary]
    for start, end in bands:
        _band(draw, start, end, 38 if blazon.ordinary == "chief" else width, colour)


def _star(cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    return [
        (
            cx + radius * (1 if i % 2 == 0 else 0.42) * math.sin(i * math.pi / 5),
            cy - radius * (1 if i % 2 == 0 else 0.42) * math.cos(i * math.pi / 5),
        )
        for i in range(10)
    ]


def _heart(cx: float, cy: float, radius: float) -> list[tuple[float, float]]:
    angles = [i * math.pi / 16 for i in range(32)]
    return [
        (
            cx + radius * math.sin(a) ** 3,
            cy - radius * (13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16,
        )
        for a in angles
    ]


def _charge_mask(charge: str, count: int) -> Image.Image:
    """Returns the coverage of all charges of a kind as an ``L`` image; holes (annulet, crescent) stay open."""
    mask = Image.new("L", (CANVAS, CANVAS), 0)
    draw = ImageDraw.Draw(mask)
    r = _CHARGE_RADIUS[count]
    for dx, dy in _CHARGE_OFFSETS[count]:
        x, y = _CENTRE[0] + dx, _CENTRE[1] + dy
        if charge == "mullet":
            draw.polygon(_star(x, y, r * 1.1), fill=255)
        elif charge == "roundel":
            draw.ellipse((x - r * 0.85, y - r * 0.85, x + r * 0.85, y + r * 0.85), fill=255)
        elif charge == "lozenge":
            draw.polygon([(x, y - r * 1.1), (x + r * 0.7, y), (x, y + r * 1.1), (x - r * 0.7, y)], fill=255)
        elif charge == "billet":
            draw.rectangle((x - r * 0.5, y - r * 0.95, x + r * 0.5, y + r * 0.95), fill=255)
        elif charge == "annulet":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
            draw.ellipse((x - r * 0.55, y - r * 0.55, x + r * 0.55, y + r * 0.55), fill=0)
        elif charge == "crescent":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
            draw.ellipse((x - r * 0.7, y - r * 1.15, x + r * 0.7, y + r * 0.25), fill=0)
        elif charge == "heart":
            draw.polygon(_heart(x, y, r), fill=255)
        else:
            draw.rectangle((x - r * 0.3, y - r, x + r * 0.3, y + r), fill=255)
            draw.rectangle((x - r, y - r * 0.3, x + r, y + r * 0.3), fill=255)
    return mask


_MASK = _shield_mask()


def draw_shield(blazon: Blazon) -> Image.Image:
    """Draws the shield from the front, without corruption.

    Returns:
        Image: RGBA of ``CANVAS`` x ``CANVAS`` pixels, transparent outside the shield.
    """
    shield = Image.new("RGB", (CANVAS, CANVAS))
    draw = ImageDraw.Draw(shield)
    _draw_field(draw, blazon)
    _draw_ordinary(draw, blazon)
    shield.paste(COLOURS[blazon.charge_tincture], (0, 0), _charge_mask(blazon.charge, blazon.count))
    draw.line([*_outline(), _outline()[0]], fill=(30, 26, 24), width=4)
    shield.putalpha(_MASK)
    return shield


def random_pose(size: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Samples perspective coefficients (output to input) of a random translation, scale, rotation and tilt."""
    angle = rng.uniform(-0.22, 0.22)
    scale = CANVAS / size / rng.uniform(0.78, 1.08)
    shear = rng.uniform(-0.12, 0.12)
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    a, b, d, e = cos, sin + shear * scale, -sin, cos
    shift = rng.uniform(-0.07, 0.07, 2) * size
    ox, oy = size / 2 + shift[0], size / 2 + shift[1]
    gx, gy = rng.uniform(-0.0012, 0.0012, 2)
    centre = CANVAS / 2
    return (
        a + gx * centre,
        b + gy * centre,
        centre - a * ox - b * oy - (gx * ox + gy * oy) * centre,
        d + gx * centre,
        e + gy * centre,
        centre - d * ox - e * oy - (gx * ox + gy * oy) * centre,
        gx,
        gy,
    )


def background(size: int, rng: np.random.Generator) -> Image.Image:
    """Draws a coarse random texture with a few random blocks, in muted colours."""
    cells = rng.integers(3, 9)
    colours = rng.integers(40, 216, 3) + rng.integers(-36, 37, (cells, cells, 3))
    texture = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    texture = texture.resize((size, size), Image.BILINEAR if rng.random() < 0.6 else Image.NEAREST)
    draw = ImageDraw.Draw(texture)
    for _ in range(rng.integers(0, 4)):
        x, y, w, h = rng.integers(0, size, 4)
        draw.rectangle((x, y, x + w // 3, y + h // 3), fill=tuple(int(c) for c in rng.integers(20, 236, 3)))
    return texture


def _occlude(image: Image.Image, rng: np.random.Generator) -> None:
    """Draws a leaf-like ellipse or a bar in front of the shield, with probability 0.4."""
    if rng.random() > 0.4:
        return
    size = image.width
    draw = ImageDraw.Draw(image)
    colour = tuple(int(c) for c in rng.integers(20, 236, 3))
    x, y = rng.uniform(0.1, 0.9, 2) * size
    w, h = rng.uniform(0.05, 0.13, 2) * size
    if rng.random() < 0.7:
        draw.ellipse((x - w, y - h, x + w, y + h), fill=colour)
    else:
        draw.rectangle((x - w / 2, y - size * 0.4, x + w / 2, y + size * 0.4), fill=colour)


def corrupt(image: Image.Image, corruption: float, rng: np.random.Generator) -> Image.Image:
    """Adds random leaves in front of the shield, haze and blur.

    Args:
        image: The image; leaves are drawn into it.
        corruption: Severity, 0 to 1.
        rng: Random generator.
    """
    size = image.width
    draw = ImageDraw.Draw(image)
    for _ in range(rng.binomial(3, corruption)):
        colour = tuple(int(c) for c in rng.integers(20, 236, 3))
        x, y = rng.uniform(0.15, 0.85, 2) * size
        w, h = rng.uniform(0.06, 0.16, 2) * size
        draw.ellipse((x - w, y - h, x + w, y + h), fill=colour)
    haze = Image.new("RGB", image.size, tuple(int(c) for c in rng.integers(90, 200, 3)))
    image = Image.blend(image, haze, rng.uniform(0, 0.5 * corruption))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.02 * corruption) * size))


def light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies random exposure, colour cast, lighting gradient and sensor noise; float32 of shape ``[h, w, 3]``."""
    size = image.shape[0]
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    gx, gy = rng.uniform(-0.45, 0.45, 2).astype(np.float32)
    exposure = np.float32(rng.uniform(0.62, 1.2)) * (1 + gx * ramp[None, :, None] + gy * ramp[:, None, None])
    cast = rng.uniform(0.88, 1.12, 3).astype(np.float32)
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(2, 12))
    return np.clip(image * exposure * cast + noise, 0, 255)


def render(blazon: Blazon, size: int, rng: np.random.Generator, corruption: float = 0.0) -> Image.Image:
    """Renders one image of a class.

    Args:
        blazon: The blazon of the shield.
        size: Width and height of the image in pixels.
        rng: Samples pose, background, occlusion, blur, lighting and noise; the same state gives the same pixels.
        corruption: Severity of leaves, haze and additional blur, 0 to 1.

    Returns:
        Image: RGB of ``size`` x ``size`` pixels.
    """
    pose = random_pose(size, rng)
    shield = draw_shield(blazon).transform((size, size), Image.PERSPECTIVE, pose, Image.BILINEAR)
    image = background(size, rng)
    image.paste(shield, (0, 0), shield)
    _occlude(image, rng)
    if corruption > 0:
        image = corrupt(image, corruption, rng)
    blur = rng.uniform(0, 0.012) * size
    if blur > 0.3:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    return Image.fromarray(light(np.asarray(image, np.float32), rng).astype(np.uint8))
