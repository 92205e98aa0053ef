"""Armory's vocabulary: a class is a blazon, the heraldic description of a shield in words.

A blazon names a field (plain or divided), an ordinary (a broad geometric band) and one to four charges (small emblems),
each with its tincture: about two million names in all. The hash of its name assigns every blazon to exactly one split,
for any seed, so that nothing trained on ``base`` can have seen a class of ``train``, ``val`` or ``test``. Classes are
sampled in families: a core and neighbours that differ from it in a single detail.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace

import numpy as np

from data_prep.core.errors import UserError

TINCTURES = ("or", "argent", "azure", "gules", "sable", "vert", "purpure", "tenny")
DIVISIONS = ("plain", "per pale", "per fess", "per bend", "quarterly")
ORDINARIES = (
    "bend",
    "bend sinister",
    "fess",
    "pale",
    "chevron",
    "cross",
    "saltire",
    "chief",
)
CHARGES = ("mullet", "roundel", "lozenge", "billet", "annulet", "crescent", "heart", "crosslet")
COUNTS = (1, 2, 3, 4)
COUNT_WORDS = {1: "a", 2: "two", 3: "three", 4: "four"}

SPLITS = ("base", "train", "val", "test")
SPLIT_SHARES = (0.7, 0.1, 0.1, 0.1)


@dataclass(frozen=True)
class Blazon:
    """One class of shields.

    ``field2`` is the second tincture of a divided field and empty for a plain one. In a visible blazon no touching
    parts share a tincture, so every detail of the name can be seen.
    """

    division: str
    field: str
    field2: str
    ordinary: str
    ordinary_tincture: str
    count: int
    charge: str
    charge_tincture: str

    @property
    def phrases(self) -> list[tuple[str, tuple[str, ...]]]:
        """The name in pieces, each with the details that it describes; a plain field's word describes three."""
        ground = [(self.field, ("division", "field", "field2"))]
        if self.division != "plain":
            ground = [
                (self.division, ("division",)),
                (f" {self.field}", ("field",)),
                (f" and {self.field2}", ("field2",)),
            ]
        return [
            *ground,
            (f", a {self.ordinary}", ("ordinary",)),
            (f" {self.ordinary_tincture}", ("ordinary_tincture",)),
            (f", {COUNT_WORDS[self.count]}", ("count",)),
            (f" {self.charge}{'s' if self.count > 1 else ''}", ("charge",)),
            (f" {self.charge_tincture}", ("charge_tincture",)),
        ]

    @property
    def name(self) -> str:
        """The class name, such as ``azure, a bend or, three mullets argent``."""
        return "".join(text for text, _ in self.phrases)

    @property
    def is_visible(self) -> bool:
        """Whether all touching parts have different tinctures."""
        ground = {self.field, self.field2} - {""}
        divided = self.division != "plain"
        return (
            len(ground) == 1 + divided
            and bool(self.field2) == divided
            and self.ordinary_tincture not in ground
            and self.charge_tincture not in ground | {self.ordinary_tincture}
        )


DETAILS: dict[str, tuple] = {
    "division": DIVISIONS,
    "field": TINCTURES,
    "field2": ("", *TINCTURES),
    "ordinary": ORDINARIES,
    "ordinary_tincture": TINCTURES,
    "count": COUNTS,
    "charge": CHARGES,
    "charge_tincture": TINCTURES,
}


def owning_split(name: str) -> str:
    """Returns the split of a class name, which depends only on the name and is the same on every machine."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    upper = 0.0
    for split, share in zip(SPLITS, SPLIT_SHARES, strict=True):
        upper += share
        if bucket < upper:
            return split
    return SPLITS[-1]


def random_blazon(rng: np.random.Generator) -> Blazon:
    """Samples a blazon of any split, uniformly over its details."""
    tinctures = [TINCTURES[i] for i in rng.permutation(len(TINCTURES))[:4]]
    division = DIVISIONS[rng.integers(len(DIVISIONS))]
    return Blazon(
        division=division,
        field=tinctures[0],
        field2="" if division == "plain" else tinctures[1],
        ordinary=ORDINARIES[rng.integers(len(ORDINARIES))],
        ordinary_tincture=tinctures[2],
        count=COUNTS[rng.integers(len(COUNTS))],
        charge=CHARGES[rng.integers(len(CHARGES))],
        charge_tincture=tinctures[3],
    )


def random_blazon_of_split(split: str, rng: np.random.Generator) -> Blazon:
    """Samples a blazon of a split."""
    while True:
        blazon = random_blazon(rng)
        if owning_split(blazon.name) == split:
            return blazon


def neighbours(blazon: Blazon, split: str, rng: np.random.Generator) -> list[Blazon]:
    """Samples blazons of the split that differ from this one in a single detail, at most one per detail.

    Details come in random order, so that a family differs by shapes and counts as often as by tinctures, although there
    are more tinctures to change to.
    """
    neighbour_by_detail = []
    details = [detail.name for detail in fields(Blazon)]
    for index in rng.permutation(len(details)):
        detail = details[index]
        values = [value for value in DETAILS[detail] if value != getattr(blazon, detail)]
        variants = [replace(blazon, **{detail: values[i]}) for i in rng.permutation(len(values))]
        valid = (variant for variant in variants if variant.is_visible and owning_split(variant.name) == split)
        neighbour_by_detail.append(next(valid, None))
    return [neighbour for neighbour in neighbour_by_detail if neighbour is not None]


def draw_classes(split: str, classes: int, family_size: int, seed: int) -> list[Blazon]:
    """Samples distinct classes in families of near-duplicates.

    Args:
        split: The split to sample from.
        classes: Number of classes.
        family_size: A family is a core and ``family_size - 1`` neighbours that differ from it in one detail each; the
            last family may be smaller, to return exactly ``classes`` blazons.
        seed: Another seed gives another set of classes of the same split.

    Returns:
        list[Blazon]: Distinct blazons, family after family.

    Raises:
        UserError: The split has too few families.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    by_name: dict[str, Blazon] = {}
    misses = 0
    while len(by_name) < classes:
        core = random_blazon_of_split(split, rng)
        new_neighbours = [b for b in neighbours(core, split, rng) if b.name not in by_name]
        if core.name in by_name or len(new_neighbours) < family_size - 1:
            misses += 1
            if misses > 50 * classes + 1000:
                raise UserError(
                    f"armory: found only {len(by_name)} of {classes} classes in families of {family_size} "
                    f"for the {split} split; request fewer classes or smaller families"
                )
            continue
        family = [core, *new_neighbours[: family_size - 1]]
        by_name |= {b.name: b for b in family[: classes - len(by_name)]}
    return list(by_name.values())
