"""Reads the output of ``python -m data_prep.emoji``: split by design family, so no evaluated drawing is trained on.

One family is for test, one for val, and the others are for train. Sub-vocabularies are Unicode's own groups; a ranker
can be trained without one and evaluated on it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.emoji.packages import COLUMNS
from data_prep.reading.dataset import Dataset, hash_images, sample_key
from data_prep.reading.kept import confirm
from data_prep.reading.tables import read_records
from data_prep.settings import DataArgs, EmojiArgs
from data_prep.settings.data import EMOJI_FAMILIES

_SUBGROUPS = {
    "animals": ("animal-",),
    "food": ("food-", "drink", "dishware"),
    "flags": ("country-flag",),
    "faces": ("face-",),
    "vehicles": ("transport-",),
}


def sub_vocabulary(subgroup: str) -> str:
    """Returns the sub-vocabulary of a class from the subgroup in its metadata; ``others`` if it is none of the five."""
    return next((name for name, starts in _SUBGROUPS.items() if subgroup.startswith(starts)), "others")


def _read_rows(args: DataArgs, cache: Path) -> list[dict[str, str]]:
    remedy = "python -m data_prep.emoji --out FOLDER makes it"
    if not args.root:
        raise UserError(f"data.name=emoji needs data.root=FOLDER; {remedy}")
    table = Path(args.root) / "pictures.csv"
    if not table.is_file():
        raise UserError(f"data.root={args.root}: holds no pictures.csv; {remedy}")
    confirm(table.parent, cache, f"delete {args.root}; {remedy} again")
    rows = [record for _, record in read_records(table)]
    if not rows or any(not row.get(column) for row in rows for column in COLUMNS if column != "keywords"):
        raise UserError(f"{table}: should list images with columns {', '.join(COLUMNS)}; {remedy}")
    if args.descriptions == "own" and not any(row.get("keywords") for row in rows):
        raise UserError(f"{table}: has no keywords for data.descriptions=own; {remedy} with them")
    return rows


def _families(part: str, args: EmojiArgs) -> set[str]:
    """Returns the design families of a part."""
    if part in ("val", "test"):
        return {args.val if part == "val" else args.test}
    others = set(EMOJI_FAMILIES) - {args.test}
    if part != "test_memory":
        others -= {args.val}
    return others & set(args.memory) if args.memory and part != "train" else others


def read_emoji(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads the parts of the emoji data set.

    A val or test image whose class has no image in the memory is left out and counted.

    Raises:
        UserError: The data is missing or malformed, or a part would be empty.
    """
    rows, emoji = _read_rows(args, cache), args.emoji
    names = {row["code"]: row["name"] for row in rows}
    labels = {code: label for label, code in enumerate(names)}
    hashes = hash_images([Path(args.root) / row["path"] for row in rows], cache, args.on_error)
    skipped = Counter({"unreadable": sum(digest is None for digest in hashes)})
    samples: dict[str, list[Sample]] = {}
    for part in (*parts, *(f"{part}_memory" for part in parts if part in ("val", "test"))):
        vocabulary = emoji.train_vocabulary if part == "train" else emoji.vocabulary
        families = _families(part, emoji)
        samples[part] = [
            Sample(sample_key(row["path"]), str(Path(args.root) / row["path"]), labels[row["code"]], digest)
            for row, digest in zip(rows, hashes, strict=True)
            if digest
            and row["family"] in families
            and (not vocabulary or sub_vocabulary(row["subgroup"]) in vocabulary)
        ]
    for part in set(parts) & {"val", "test"}:
        memory_labels = {sample.label for sample in samples[f"{part}_memory"]}
        queries = [sample for sample in samples[part] if sample.label in memory_labels]
        skipped["class not in the memory"] += len(samples[part]) - len(queries)
        samples[part] = queries
    if empty := [part for part in parts if not samples[part]]:
        families = ", ".join(sorted(_families(empty[0], emoji)))
        raise UserError(
            f"data.root={args.root}: has no images for {empty[0]}, which uses the families {families}; change "
            "data.emoji"
        )
    keywords = {labels[row["code"]]: (row["keywords"],) for row in rows if row.get("keywords")}
    return Dataset(
        "emoji",
        tuple(names.values()),
        {part: samples[part] for part in parts},
        skipped,
        descriptions=keywords if args.descriptions == "own" else {},
    )
