"""Reads what ``python -m data_prep.emoji`` made: split by design family, so that no drawing is seen before it is asked.

One family is the test's, one the development's, the others are tuned on. Sub-vocabularies are Unicode's own groups; a
ranker can be tuned without one and recognise it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.emoji.packages import COLUMNS
from data_prep.reading.dataset import Dataset, digests, sample_key
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
    """The sub-vocabulary of a class, by the subgroup in its metadata; ``others`` where it is none of the five."""
    return next((name for name, starts in _SUBGROUPS.items() if subgroup.startswith(starts)), "others")


def _read_rows(args: DataArgs, cache: Path) -> list[dict[str, str]]:
    made = "python -m data_prep.emoji --out FOLDER makes it"
    if not args.root:
        raise UserError(f"data.name=emoji needs data.root=FOLDER; {made}")
    table = Path(args.root) / "pictures.csv"
    if not table.is_file():
        raise UserError(f"data.root={args.root}: holds no pictures.csv; {made}")
    confirm(table.parent, cache, f"delete {args.root}; {made} again")
    rows = [record for _, record in read_records(table)]
    if not rows or any(not row.get(column) for row in rows for column in COLUMNS):
        raise UserError(f"{table}: should list pictures with columns {', '.join(COLUMNS)}; {made}")
    return rows


def _families(part: str, args: EmojiArgs) -> set[str]:
    """The design families of a part."""
    if part in ("val", "test"):
        return {args.val if part == "val" else args.test}
    others = set(EMOJI_FAMILIES) - {args.test}
    if part != "test_memory":
        others -= {args.val}
    return others & set(args.memory) if args.memory and part != "train" else others


def read_emoji(args: DataArgs, cache: Path, parts: tuple[str, ...]) -> Dataset:
    """Reads the emoji's parts.

    A picture to be recognised whose class no picture of the memory shows is left out and counted.

    Raises:
        UserError: The data is missing or malformed, or a part would be empty.
    """
    rows, emoji = _read_rows(args, cache), args.emoji
    names = {row["code"]: row["name"] for row in rows}
    labels = {code: label for label, code in enumerate(names)}
    found = digests([Path(args.root) / row["path"] for row in rows], cache, args.on_error)
    skipped = Counter({"unreadable": sum(digest is None for digest in found)})
    lists: dict[str, list[Sample]] = {}
    for part in (*parts, *(f"{part}_memory" for part in parts if part in ("val", "test"))):
        wanted = emoji.train_vocabulary if part == "train" else emoji.vocabulary
        families = _families(part, emoji)
        lists[part] = [
            Sample(sample_key(row["path"]), str(Path(args.root) / row["path"]), labels[row["code"]], digest)
            for row, digest in zip(rows, found, strict=True)
            if digest and row["family"] in families and (not wanted or sub_vocabulary(row["subgroup"]) in wanted)
        ]
    for part in set(parts) & {"val", "test"}:
        held = {sample.label for sample in lists[f"{part}_memory"]}
        kept = [sample for sample in lists[part] if sample.label in held]
        skipped["class not in the memory"] += len(lists[part]) - len(kept)
        lists[part] = kept
    if empty := [part for part in parts if not lists[part]]:
        families = ", ".join(sorted(_families(empty[0], emoji)))
        raise UserError(f"data.root={args.root}: has no pictures for {empty[0]}, which takes those of {families}")
    return Dataset("emoji", tuple(names.values()), {part: lists[part] for part in parts}, skipped)
