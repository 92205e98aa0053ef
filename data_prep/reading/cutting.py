"""Divides the images of a class by shares, with copies of an image in one part."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def _choose_part(room: Sequence[int], missing: Sequence[int], groups_left: int) -> int:
    """Chooses the part with most room; where as many groups are left as parts still need, one that needs some."""
    needy = [part for part, count in enumerate(missing) if count > 0]
    parts = needy if groups_left <= sum(missing) else range(len(room))
    return max(parts, key=lambda part: (room[part], -part))


def cut(items: Sequence[Item], groups: Sequence[Hashable], shares: Sequence[float], rng: random.Random) -> list[list]:
    """Shuffles a class and divides it by shares; items of a group are in one part.

    The first part has at least two groups, and each other one has one. Without groups of several items the parts are as
    large as the shares say; else as nearly as the groups allow.

    Args:
        items: At least ``len(shares) + 1`` groups of items.
        groups: The group of each item.
        shares: A share per part; their sum is 1.
        rng: Decides the order; it is advanced by the number of items alone.

    Returns:
        list[list]: The items of each part.
    """
    order = rng.sample(range(len(items)), len(items))
    room = [0, *(max(1, round(share * len(items))) for share in shares[1:])]
    while len(items) - sum(room) < 2:
        room[room.index(max(room))] -= 1
    room[0] = len(items) - sum(room)
    members: dict[Hashable, list[int]] = {}
    for index in order:
        members.setdefault(groups[index], []).append(index)
    missing = [2, *[1] * (len(shares) - 1)]
    parts: list[list[int]] = [[] for _ in shares]
    several = sorted((group for group in members.values() if len(group) > 1), key=len, reverse=True)
    singles = [group[0] for group in members.values() if len(group) == 1]
    for placed, group in enumerate(several):
        part = _choose_part(room, missing, len(members) - placed)
        parts[part] += group
        room[part] -= len(group)
        missing[part] = max(0, missing[part] - 1)
    counts = [max(free, needed) for free, needed in zip(room, missing, strict=True)]
    while sum(counts) > len(singles):  # large groups took more than their part's share
        spare = [count - needed for count, needed in zip(counts, missing, strict=True)]
        counts[spare.index(max(spare))] -= 1
    start = 0
    for part, count in zip(parts, counts, strict=True):
        part += singles[start : start + count]
        start += count
    return [[items[index] for index in part] for part in parts]
