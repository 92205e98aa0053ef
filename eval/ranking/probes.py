"""Requests of a parity check: images of the run, and patterns in which a resize shows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from data_prep.core.rng import evenly_spaced
from data_prep.prompting.prompts import LETTERS
from eval.ranking.request import RankingRequest, open_request_image
from eval.ranking.server_messages import encode_image

_ANY_NAMES = ("an animal", "a building", "a plant", "a vehicle")  # for requests without candidates
_MAX_PATTERNS = 4
_COARSEST = 4  # squares along an edge


@dataclass(frozen=True)
class Probes:
    """Requests about which server and local model are compared.

    Attributes:
        requests: Those with images of the run first, then those with patterns.
        count: Number of the first.
    """

    requests: Sequence[RankingRequest]
    count: int


def make_pattern(width: int, height: int, seed: int) -> Image.Image:
    """Draws coloured noise of equal strength at every scale: whatever size a model sees, a smaller image loses some."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    edge = _COARSEST
    while edge <= max(width, height):
        squares = Image.fromarray(rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8))
        total += np.asarray(squares.resize((width, height), Image.Resampling.NEAREST), float) - 127.5
        edge *= 2
    contrast = 60 / max(total.std(), 1e-9)
    return Image.fromarray((total * contrast + 127.5).clip(0, 255).astype(np.uint8))


def choose_probes(requests: Sequence[RankingRequest], count: int, image_format: str) -> Probes:
    """Chooses evenly spaced requests, and repeats up to four of them with a pattern of the image's size.

    Args:
        requests: What is to be ranked.
        count: Number of requests.
        image_format: Encoding of images; they are as the server gets them, so that JPEG's losses are no difference.

    Raises:
        UserError: An image is missing or does not decode.
    """
    probes = []
    for index in evenly_spaced(len(requests), count):
        request, has_names = requests[index], len(requests[index].names) > 1
        names = request.names[: len(LETTERS)] if has_names else _ANY_NAMES
        image = _as_sent(open_request_image(request.image), image_format)
        of_names = (request.examples, request.descriptions) if has_names else ((), ())
        examples, descriptions = (values[: len(names)] for values in of_names)
        probe = replace(request, image=image, names=names, examples=examples, descriptions=descriptions, contents=())
        probes.append(probe)
    patterns = [
        replace(probe, image=_as_sent(make_pattern(*probe.image.size, seed), image_format))
        for seed, probe in enumerate(probes[:_MAX_PATTERNS])
        if isinstance(probe.image, Image.Image)
    ]
    return Probes([*probes, *patterns], len(probes))


def _as_sent(image: Image.Image, image_format: str) -> Image.Image:
    return Image.open(io.BytesIO(encode_image(image, image_format))).convert("RGB")
