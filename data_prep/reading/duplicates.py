"""Duplicates among a class's images: equal bytes, or one photograph resized, recompressed or slightly cropped.

Near-equal images are found by thumbnails of 12 x 12 pixels, since no embedding exists yet when data are read. Two
images are near-equal if one thumbnail, or a crop of it, differs from the other by little compared with the other's
contrast, and with how much the images of the class differ: scans of handwriting differ little, photographs much.
Measured on photographs: resized and recompressed copies differ by at most 0.15, crops of up to 4 % a side by
at most 0.28 (90 % of them by less than 0.18), and different photographs by 0.50 or more. Pictures of one place, as of
a fixed camera, differ as little as copies do, but all alike: a copy is also much nearer than further images are.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, read_sealed, write_sealed, write_text
from data_prep.core.images import VERSION, open_reduced
from data_prep.core.progress import progress_bar
from data_prep.core.records import Sample
from data_prep.core.rng import evenly_spaced
from data_prep.reading.dataset import list_left_out, log_once

log = logging.getLogger(__name__)

_METHOD = 1  # to be raised when other images are found to be near-equal
_SIZE = 12  # pixels of a thumbnail
_BLUR = 0.8  # pixels, so that half a pixel of shift counts less
_CROPS = (0.0, 0.04, 0.08)  # shares of a side that a copy may have lost
_MAX_DIFFERENCE = 0.25  # root mean square, relative to the contrast
_MAX_SHARE = 0.16  # the same, of the median difference in the class
_COMPARED = 256  # images whose differences have that median
_MAX_UNCROPPED = 0.75  # the same of a thumbnail as it is; other pairs are not tried with crops
_MIN_CONTRAST = 2.0  # grey levels; an image with less is compared by bytes alone
_CANDIDATES = 8  # most similar images that each image is compared with
_NEIGHBOURS = 16  # the distance to the image of this rank is that of images that are no copies
_MAX_RATIO = 0.5  # of that distance, at which a copy is at most
_BLOCK = 64  # images at a time


def _make_thumbnail(path: str) -> np.ndarray:
    """Returns the RGB thumbnail of an image, uint8, shape ``[size, size, 3]``."""
    return np.asarray(open_reduced(Path(path), (_SIZE, _SIZE)))


def _make_thumbnails(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Returns a thumbnail for each content digest."""
    paths = {sample.digest: sample.path for sample in samples}
    with ThreadPoolExecutor() as pool:
        return dict(zip(paths, progress_bar("comparing images", pool.map(_make_thumbnail, paths.values()), len(paths))))


@cache
def _crop_operator() -> np.ndarray:
    """Returns the matrix that resamples a thumbnail to its crops, shape ``[crops * size * size, size * size]``."""
    sides = np.zeros((len(_CROPS) ** 2, _SIZE, _SIZE), np.float32)
    rows = np.arange(_SIZE)
    for side, (before, after) in zip(sides, product(_CROPS, _CROPS), strict=True):
        centres = (before + (rows + 0.5) * (1 - before - after) / _SIZE) * _SIZE - 0.5
        left = np.clip(centres.astype(int), 0, _SIZE - 2)
        weight = np.clip(centres - left, 0, 1)
        side[rows, left] = 1 - weight
        side[rows, left + 1] = weight
    return np.einsum("aik,bjl->abijkl", sides, sides).reshape(-1, _SIZE * _SIZE)


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns root mean square differences of flat images, shapes ``[n, d]`` and ``[m, d]`` to ``[n, m]``."""
    squares = np.square(one).sum(1)[:, None] + np.square(other).sum(1) - 2 * one @ other.T
    return np.sqrt(squares.clip(0) / one.shape[1])


def _choose_limit(flat: np.ndarray, contrasts: np.ndarray) -> float:
    """Returns the largest difference of near-equal images of a class, relative to the contrast.

    Args:
        flat: Its images, shape ``[n, d]``.
        contrasts: Their contrasts, shape ``[n]``; negative for images that are not compared.
    """
    some = np.array(evenly_spaced(len(flat), _COMPARED))
    some = some[contrasts[some] > 0]
    if len(some) < 2:
        return 0.0
    differences = _distances(flat[some], flat[some]) / contrasts[some]
    median = np.median(differences[~np.eye(len(some), dtype=bool)])
    return min(_MAX_DIFFERENCE, _MAX_SHARE * float(median))


def find_near_equal(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Finds pairs of images that show the same photograph, by their indices.

    An image is compared with the few that are most similar to it; the copies of an image with more copies than that are
    found through each other. In a class where most images are copies of one, none is found.

    Args:
        thumbnails: RGB, uint8, shape ``[n, size, size, 3]``.
    """
    if len(thumbnails) < 2:
        return []
    images = gaussian_filter(thumbnails.astype(np.float32), (0, _BLUR, _BLUR, 0))
    contrasts = np.sqrt(images.var((1, 2)).mean(1))
    contrasts[contrasts < _MIN_CONTRAST] = -1  # no difference is below
    flat = images.reshape(len(images), -1)
    limits = np.square(_MAX_UNCROPPED * contrasts) * np.sign(contrasts) * flat.shape[1]
    norms, limit = np.square(flat).sum(1), _choose_limit(flat, contrasts)
    rank = min(_NEIGHBOURS, 3 * len(images) // 4)
    pairs = []
    for start in range(0, len(images), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(images)))
        squares = norms - 2 * flat[rows] @ flat.T  # squared distances
        squares += norms[rows, None]
        is_similar = squares <= limits
        is_similar[rows - start, rows] = False
        compared = np.flatnonzero(is_similar.any(1))
        if not len(compared):
            continue
        pixels = images[start + compared].reshape(len(compared), -1, 3).transpose(1, 0, 2).reshape(_SIZE**2, -1)
        crops = (_crop_operator() @ pixels).reshape(-1, _SIZE**2, len(compared), 3)
        for position, row in enumerate(compared):
            others = np.flatnonzero(is_similar[row])
            others = others[np.argsort(squares[row, others])[:_CANDIDATES]]
            own = crops[:, :, position].reshape(len(crops), -1)
            distances = _distances(own, flat[others]).min(0)
            further = np.partition(squares[row], rank)[rank].clip(0) / flat.shape[1]  # rank 0 is the image itself
            is_near = (distances <= limit * contrasts[others]) & (distances <= _MAX_RATIO * np.sqrt(further))
            pairs += [(start + int(row), other) for other in others[is_near].tolist()]
    return pairs


def group_near_equal(samples: Sequence[Sample], cache_folder: Path) -> dict[str, str]:
    """Groups the near-equal images of each class; copies of a copy are in the same group.

    Args:
        samples: Images of any classes.
        cache_folder: Folder of caches, which keeps the groups: comparing 100,000 images takes minutes.

    Returns:
        dict[str, str]: The digest that represents its group, by digest.

    Raises:
        UserError: An image cannot be opened any more, or the cached groups are damaged.
    """
    digests_by_class: dict[int, set[str]] = defaultdict(set)
    for sample in samples:
        digests_by_class[sample.label].add(sample.digest)
    classes = sorted(map(sorted, digests_by_class.values()))
    path = cache_folder / f"near-equal-{fingerprint([VERSION, _METHOD, classes])}.json"
    if not path.exists():
        write_sealed(path, _group(classes, _make_thumbnails(samples)))
    others = read_sealed(path)
    return {sample.digest: others.get(sample.digest, sample.digest) for sample in samples}


def _group(classes: list[list[str]], thumbnails: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the digest that represents its group, by digest, of those that do not represent their own."""
    groups = {digest: digest for digest in thumbnails}

    def root(digest: str) -> str:
        while groups[digest] != digest:
            groups[digest] = digest = groups[groups[digest]]
        return digest

    for digests in classes:
        for index, other in find_near_equal(np.stack([thumbnails[digest] for digest in digests])):
            low, high = sorted((root(digests[index]), root(digests[other])))
            groups[high] = low
    return {digest: root(digest) for digest in groups if root(digest) != digest}


@dataclass(frozen=True)
class CopyGroups:
    """Which images of a class are copies of each other, for its division into parts.

    Attributes:
        near: The digest that represents the group of near-equal images, by digest; empty where none was compared.
    """

    near: Mapping[str, str] = field(default_factory=dict)

    def of_class(self, samples: Sequence[Sample], minimum: int) -> list[str]:
        """Returns the group of each image of a class.

        Near-equal images form one only where that leaves the class as many groups as it needs to be divided.
        """
        digests = [sample.digest for sample in samples]
        groups = [self.near.get(digest, digest) for digest in digests]
        return groups if len(set(groups)) >= minimum else digests


def count_distinct(samples: Sequence[Sample]) -> int:
    """Returns the number of images of different bytes."""
    return len({sample.digest for sample in samples})


def find_copies(
    classes: Mapping[int, Sequence[Sample]], names: Sequence[str], minimum: int, cache_folder: Path
) -> CopyGroups:
    """Finds the copies among the images of each class, and logs and lists them.

    Args:
        classes: Images by label.
        names: Class names by label.
        minimum: Number of groups that a class needs to be divided; see ``CopyGroups.of_class``.
        cache_folder: Folder of caches; the groups are listed there, in ``copies-*.jsonl``.
    """
    groups = CopyGroups(group_near_equal([s for samples in classes.values() for s in samples], cache_folder))
    records, images, equal, undivided = [], 0, 0, []
    for label, samples in classes.items():
        class_groups = groups.of_class(samples, minimum)
        by_group: dict[str, list[Sample]] = defaultdict(list)
        for sample, group in zip(samples, class_groups, strict=True):
            by_group[group].append(sample)
        copies = [group for group in by_group.values() if len(group) > 1]
        records += [{"class": names[label], "paths": [sample.path for sample in group]} for group in copies]
        images += sum(map(len, copies))
        equal += sum(count_distinct(group) == 1 for group in copies)
        if len(by_group) == count_distinct(samples) and len({groups.near[s.digest] for s in samples}) < len(by_group):
            undivided.append(names[label])
    if records:
        path = cache_folder / f"copies-{fingerprint(records)}.jsonl"
        write_text(path, "".join(f"{json.dumps(record)}\n" for record in records))
        in_groups = f"{len(records)} group{'s' * (len(records) > 1)}"
        kinds = f"{equal} of equal bytes, {len(records) - equal} resized, recompressed or cropped"
        message = f"data: {images} images are copies, in {in_groups} ({kinds}), listed in {path}"
        log_once(log, logging.INFO, f"{message}; each group stays in one part")
    if undivided:
        message = (
            f"data: {len(undivided)} classes show nearly the same in all images, so that copies of other bytes may be "
            f"in several parts: {', '.join(undivided[:5])}"
        )
        log_once(log, logging.WARNING, message)
    return groups


def drop_contradictory(
    samples: Sequence[Sample], names: Sequence[str], on_error: str, cache_folder: Path
) -> list[Sample]:
    """Returns the images without those that are in several classes, byte for byte: none of their labels can be trusted.

    Args:
        samples: All images of a data set.
        names: Class names by label.
        on_error: ``skip``, or ``raise``.
        cache_folder: Folder of caches; the images are listed there, in ``contradictory-*.jsonl``.

    Raises:
        UserError: There are such images and ``on_error`` is ``raise``.
    """
    labels: dict[str, set[int]] = defaultdict(set)
    for sample in samples:
        labels[sample.digest].add(sample.label)
    dropped = [sample for sample in samples if len(labels[sample.digest]) > 1]
    if not dropped:
        return list(samples)
    first = dropped[0]
    other = next(s for s in dropped if s.digest == first.digest and s.label != first.label)
    pictures = len({sample.digest for sample in dropped})
    what = (
        f"{pictures} image{'s are' if pictures > 1 else ' is'} in several classes, byte for byte, such as {first.path} "
        f"({names[first.label]}) and {other.path} ({names[other.label]})"
    )
    if on_error == "raise":
        raise UserError(f"{what}; keep each in one class, or set data.on_error=skip to leave them out")
    entries = [(Path(sample.path), f"also in another class than {names[sample.label]}") for sample in dropped]
    path = cache_folder / f"contradictory-{fingerprint([[ascii(str(p)), reason] for p, reason in entries])}.jsonl"
    list_left_out(entries, path)
    log_once(log, logging.WARNING, f"data: {what}; left out all {len(dropped)} files, listed in {path}")
    return [sample for sample in samples if len(labels[sample.digest]) == 1]
