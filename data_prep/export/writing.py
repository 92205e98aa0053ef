"""Exports ranking examples to another trainer's format, and checks the export by reading it back."""

from __future__ import annotations

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
from data_prep.export.conversation import TAG, Conversation, Document
from data_prep.export.formats import FORMATS, JUDGED
from data_prep.export.judged import rejected_answer
from data_prep.export.rar import native_prompt
from data_prep.mining.shards import ShardedExamples, read_example, read_image_bytes
from data_prep.prompting.prompt_lengths import TokenCounter
from data_prep.prompting.prompts import describe, list_answer, list_prompt
from data_prep.prompting.targets import target_names

log = logging.getLogger(__name__)

_SUMMARY = "export.json"
_TAGS = (TAG, "<video>", "<audio>")  # that trainers replace wherever they occur


def find_export_problem(names: Sequence[str], num_tokens: int, max_tokens: int | None, prompt: str = "") -> str | None:
    """Returns why an example cannot be exported, or None.

    Args:
        names: The candidates.
        num_tokens: Number of tokens of its texts.
        max_tokens: Maximum number of tokens; None for no limit.
        prompt: The prompt, which may show descriptions beside the names.
    """
    if any(tag in name for name in names for tag in _TAGS):
        return "dropped: a name holds a media tag"
    if any(tag in prompt for tag in _TAGS):
        return "dropped: a description holds a media tag"
    if not all(name.strip() for name in names):
        return "dropped: an empty name"
    if max_tokens is not None and num_tokens > max_tokens:
        return f"dropped: longer than {max_tokens} tokens"
    return None


def _judge(example: RankingExample) -> list[Document]:
    """Returns the candidates in retriever order, and which are right; none where no candidate is."""
    if example.truth is None:
        return []
    right, names = example.candidates[example.truth].label, [candidate.name for candidate in example.candidates]
    texts = describe(names, example.descriptions)
    return [Document(text, c.label == right) for text, c in zip(texts, example.candidates, strict=True)]


def _make_conversation(
    example: RankingExample, shown: RankingExample, image: str, prompt: str, target: list[str]
) -> Conversation:
    documents, names = _judge(example), [candidate.name for candidate in shown.candidates]
    judged = [(c.name, document.is_right) for c, document in zip(example.candidates, documents, strict=bool(documents))]
    truth = "" if example.truth is None else example.candidates[example.truth].name
    has_wrong = any(not is_right for _, is_right in judged)
    rejected = rejected_answer(target, judged) if has_wrong else ""
    return Conversation(example.key, image, names, prompt, list_answer(target), truth, documents, rejected)


def _make_conversations(
    examples: ShardedExamples,
    folder: Path,
    to_shown: Callable[[RankingExample], RankingExample],
    to_prompt: Callable[[list[str], Sequence[str]], str],
    target: str,
    token_limit: tuple[TokenCounter, int] | None,
    counts: Counter,
    needs_judgement: bool,
) -> Iterator[Conversation]:
    """Yields the examples that can be exported, writes each of their images once, and counts outcomes."""
    for line in examples.lines:
        example = read_example(examples.folder, line)
        shown = to_shown(example)
        names = [candidate.name for candidate in shown.candidates]
        if (target != "graded" or needs_judgement) and example.truth is None:
            counts["dropped: no right answer"] += 1
            continue
        if needs_judgement and all(document.is_right for document in _judge(example)):
            counts["dropped: no wrong candidate"] += 1
            continue
        prompt, targets = to_prompt(names, shown.descriptions), target_names(example, target)
        num_tokens = sum(token_limit[0]([prompt, list_answer(targets)])) if token_limit else 0
        problem = find_export_problem(names, num_tokens, token_limit and token_limit[1], prompt)
        counts[problem or "exported"] += 1
        if problem:
            continue
        suffix, data = read_image_bytes(examples.folder, line)
        image = f"images/{hashlib.sha256(data).hexdigest()[:24]}.{suffix}"
        if not (folder / image).exists():
            (folder / image).write_bytes(data)
        yield _make_conversation(example, shown, image, prompt, targets)


def export(
    shards: Path,
    to: Path,
    format_name: str,
    target: str = "truth_first",
    seed: int = 0,
    order: str = "shuffled",
    expert: str = "classification",
    token_limit: tuple[TokenCounter, int] | None = None,
) -> dict:
    """Exports a folder of shards, and checks the export by reading it back.

    Prompts show the candidates' descriptions where the examples have them, as in training; RAR's released prompt does
    not.

    Args:
        shards: Folder of shards.
        to: Folder to write; an earlier export there is replaced.
        format_name: A key of ``FORMATS``.
        target: ``mining.target``.
        seed: Seed of the order of candidates, which is that of the first epoch of training.
        order: ``shuffled`` or ``retriever``.
        expert: The kind of expert in RAR's prompt.
        token_limit: A counter and the maximum number of tokens per record, without those of the image.

    Returns:
        dict: Counts by reason, which are also in ``export.json``.

    Raises:
        UserError: The folder holds other files, or nothing could be exported.
    """
    if to.exists() and (not to.is_dir() or (any(to.iterdir()) and not (to / _SUMMARY).exists())):
        raise UserError(f"--to {to}: holds other files; choose a folder that is empty or does not exist")
    format_writer = FORMATS[format_name]
    examples = ShardedExamples(shards)
    counts: Counter = Counter()

    def to_shown(example: RankingExample) -> RankingExample:
        return shuffle_candidates(example, seed, 0) if order == "shuffled" else example

    def to_prompt(names: list[str], descriptions: Sequence[str]) -> str:
        if format_name == "rar":
            return native_prompt(names, expert)
        return list_prompt(names, descriptions=descriptions)

    with write_folder(to) as unfinished:
        (unfinished / "images").mkdir()
        judged = format_name in JUDGED
        generated = _make_conversations(examples, unfinished, to_shown, to_prompt, target, token_limit, counts, judged)
        conversations = list(progress_bar("exporting", generated, len(examples)))
        if not conversations:
            raise UserError(f"--format {format_name}: nothing of {shards} could be exported ({dict(counts)})")
        dataset_name = "".join(c if c.isalnum() else "_" for c in examples.manifest["dataset"])
        format_writer.write(unfinished, dataset_name, conversations)
        check_export(unfinished, format_name, conversations)
        summary = {
            "format": format_name,
            "list": format_writer.FILE,
            "use": format_writer.HINT,
            "shards": shards.name,
            "target": target,
            "order": order,
            "seed": seed,
            "counts": dict(counts),
        }
        write_json(unfinished / _SUMMARY, summary)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    log.info("export: %s in %s; %s", outcomes, to, format_writer.HINT)
    return dict(counts)


def check_export(folder: Path, format_name: str, conversations: Sequence[Conversation]) -> None:
    """Reads an export back and checks the number of its records, and their tags, image paths and names.

    Raises:
        UserError: A record differs from its conversation; the message names it.
    """
    turns = list(FORMATS[format_name].read(folder))
    where = folder / FORMATS[format_name].FILE
    if len(turns) != len(conversations):
        raise UserError(f"{where}: {len(turns)} records instead of {len(conversations)}")
    for turn, expected in zip(turns, conversations, strict=True):
        problem = turn.find_problem(expected, folder)
        if problem:
            raise UserError(f"{where}: record of {expected.key}: {problem}")
