"""Writes ranking examples in another trainer's format, and reads them back to check them."""

from __future__ import annotations

import ast
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from data_prep.core.errors import UserError
from data_prep.core.files import write_folder, write_json
from data_prep.core.progress import progress_bar
from data_prep.core.records import RankingExample
from data_prep.core.rng import shuffle_candidates
from data_prep.export.conversation import TAG, Conversation
from data_prep.export.formats import FORMATS
from data_prep.export.rar import native_prompt
from data_prep.mining.shards import ShardedExamples, read_example, read_image_bytes
from data_prep.prompting.prompt_lengths import TokenCounter
from data_prep.prompting.prompts import list_answer, list_prompt
from data_prep.prompting.targets import target_names

log = logging.getLogger(__name__)

_SUMMARY = "export.json"
_TAGS = (TAG, "<video>", "<audio>")  # that trainers replace wherever they stand


def export_fault(names: Sequence[str], longest: int, max_tokens: int | None) -> str | None:
    """Why an example cannot be exported, or None.

    Args:
        names: The candidates.
        longest: Tokens of its texts.
        max_tokens: As many are allowed.
    """
    if any(tag in name for name in names for tag in _TAGS):
        return "dropped: a name holds a media tag"
    if not all(name.strip() for name in names):
        return "dropped: an empty name"
    if max_tokens is not None and longest > max_tokens:
        return f"dropped: longer than {max_tokens} tokens"
    return None


def _conversations(
    opened: ShardedExamples,
    folder: Path,
    to_names: Callable[[RankingExample], list[str]],
    to_prompt: Callable[[list[str]], str],
    target: str,
    tokens: tuple[TokenCounter, int] | None,
    counts: Counter,
) -> Iterator[Conversation]:
    """Gives what can be exported, writes its pictures, each once, and counts."""
    for line in opened.lines:
        example = read_example(opened.folder, line)
        names = to_names(example)
        if target != "graded" and example.truth is None:
            counts["dropped: no right answer"] += 1
            continue
        prompt, answer = to_prompt(names), list_answer(target_names(example, target))
        longest = sum(tokens[0]([prompt, answer])) if tokens else 0
        reason = export_fault(names, longest, tokens and tokens[1])
        counts[reason or "exported"] += 1
        if reason:
            continue
        suffix, data = read_image_bytes(opened.folder, line)
        image = f"images/{hashlib.sha256(data).hexdigest()[:24]}.{suffix}"
        if not (folder / image).exists():
            (folder / image).write_bytes(data)
        yield Conversation(example.key, image, names, prompt, answer)


def export(
    shards: Path,
    to: Path,
    format_name: str,
    target: str = "truth_first",
    seed: int = 0,
    order: str = "shuffled",
    expert: str = "classification",
    tokens: tuple[TokenCounter, int] | None = None,
) -> dict:
    """Exports a folder of shards, and checks what was written by reading it back.

    Args:
        shards: What mining made.
        to: The folder to write; an earlier export there is replaced.
        format_name: A key of ``FORMATS``.
        target: ``mining.target``.
        seed: Of the order of candidates, which is that of a training's first epoch.
        order: ``shuffle_candidates`` or ``retriever``.
        expert: For RAR's prompt.
        tokens: A counter and the most tokens of a record, without its image's.

    Returns:
        dict: Counts by reason; they stand in ``export.json`` too.

    Raises:
        UserError: The folder holds something else, or nothing could be exported.
    """
    if to.exists() and (not to.is_dir() or (any(to.iterdir()) and not (to / _SUMMARY).exists())):
        raise UserError(f"--to {to}: holds other files; choose a folder that is empty or does not exist")
    form = FORMATS[format_name]
    opened = ShardedExamples(shards)
    counts: Counter = Counter()

    def to_names(example: RankingExample) -> list[str]:
        shown = shuffle_candidates(example, seed, 0) if order == "shuffled" else example
        return [candidate.name for candidate in shown.candidates]

    def to_prompt(names: list[str]) -> str:
        return native_prompt(names, expert) if format_name == "rar" else list_prompt(names)

    with write_folder(to) as place:
        (place / "images").mkdir()
        conversations = _conversations(opened, place, to_names, to_prompt, target, tokens, counts)
        made = list(progress_bar("exporting", conversations, len(opened)))
        if not made:
            raise UserError(f"--format {format_name}: nothing of {shards} could be exported ({dict(counts)})")
        form.write(place, "".join(c if c.isalnum() else "_" for c in opened.manifest["dataset"]), made)
        check_export(place, format_name, made)
        metadata = {"format": format_name, "list": form.FILE, "use": form.HINT, "shards": shards.name, "target": target}
        write_json(place / _SUMMARY, metadata | {"order": order, "seed": seed, "counts": dict(counts)})
    log.info("export: %s in %s; %s", ", ".join(f"{n} {why}" for why, n in counts.items()), to, form.HINT)
    return dict(counts)


def check_export(folder: Path, format_name: str, made: Sequence[Conversation]) -> None:
    """Reads an export back and checks tags, paths, names and number of its records.

    Raises:
        UserError: A record is not what was to be written; names it.
    """
    turns = list(FORMATS[format_name].read(folder))
    where = folder / FORMATS[format_name].FILE
    if len(turns) != len(made):
        raise UserError(f"{where}: {len(turns)} records in place of {len(made)}")
    for turn, one in zip(turns, made, strict=True):
        wrong = None
        if turn.user.count(TAG) != turn.tags or TAG in turn.assistant:
            wrong = f"{turn.user.count(TAG)} image tags in place of {turn.tags}"
        elif turn.images != [one.image] or not (folder / one.image).is_file():
            wrong = f"images {turn.images}, of which one is missing"
        elif not set(ast.literal_eval(turn.assistant)) <= set(one.names) or list_answer(one.names) not in turn.user:
            wrong = "names that differ from the example's"
        if wrong:
            raise UserError(f"{where}: record of {one.key}: {wrong}")
