"""From what was retrieved for an image to its ranking examples: pure functions of lists and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from data_prep.core.names import normalize_name
from data_prep.core.records import NONE_OF_THESE, Candidate, RankingExample
from data_prep.core.rng import rng_for
from data_prep.prompting.prompts import NONE_NAME
from data_prep.settings import MiningArgs


def candidate_lists(
    key: str, label: int, found: Sequence[Candidate], args: MiningArgs
) -> Iterator[tuple[str, tuple[Candidate, ...]]]:
    """Chooses candidates among the neighbours.

    Args:
        key: Of the image and source; decides lots.
        label: The true class.
        found: Neighbours, best first; ``args.depth`` of them where there are so many.
        args: Settings.

    Yields:
        tuple[str, tuple[Candidate, ...]]: The key of each list and its candidates in retriever order.
    """
    if args.construction == "windows":
        # Fewer neighbours than a window still make one list, so that no image is lost unseen.
        for start in range(max(len(found) - args.k, 0) + 1):
            yield f"{key}-w{start:02d}", tuple(found[start : start + args.k])
        return
    k = args.k if args.k_max is None else int(rng_for(args.seed, "k", key).integers(args.k, args.k_max + 1))
    yield key, _with_easier(key, label, found, k, args)


def _with_easier(key: str, label: int, found: Sequence[Candidate], k: int, args: MiningArgs) -> tuple[Candidate, ...]:
    """The k nearest, or fewer of them with some from further down; a truth among the k nearest stays."""
    if not args.num_easy_negatives or len(found) <= k:
        return tuple(found[:k])
    hard = k - args.num_easy_negatives
    kept = [*range(hard), *(i for i in range(hard, k) if found[i].label == label)][:k]
    rest = [i for i in range(hard, min(len(found), args.easy_negative_max_rank)) if i not in kept]
    drawn = rng_for(args.seed, "easy", key).permutation(len(rest))[: k - len(kept)]
    return tuple(found[i] for i in sorted([*kept, *(rest[i] for i in drawn)]))


def apply_policy(
    key: str, label: int, chosen: tuple[Candidate, ...], k: int, policy: str, names: Sequence[str]
) -> tuple[RankingExample | None, str]:
    """Applies the ground-truth policy.

    Args:
        key: Of the example.
        label: The true class.
        chosen: Candidates in retriever order.
        k: As many there should be; a truth that is inserted replaces the last of so many.
        policy: ``mining.ground_truth``.
        names: Class names by label.

    Returns:
        tuple[RankingExample | None, str]: The example or None, and the reason for the count.
    """
    reason = "truth retrieved"
    if all(candidate.label != label for candidate in chosen):
        if policy == "only_if_retrieved" and len(chosen) >= 2:
            return None, "dropped: truth not retrieved"
        reason = "kept without truth"
        if policy == "insert" and chosen:
            reason = "truth inserted"
            chosen = (*chosen[: k - 1], Candidate(label, names[label], chosen[-1].score))
    if len(chosen) < 2:
        return None, "dropped: fewer than two candidates"
    return RankingExample(key, label, chosen), reason


def with_none(example: RankingExample) -> RankingExample:
    """The example with ``none of these`` behind its candidates."""
    last = Candidate(NONE_OF_THESE, NONE_NAME, example.candidates[-1].score)
    return replace(example, candidates=(*example.candidates, last))


def with_synonyms(
    example: RankingExample, names: Sequence[str], synonyms: Mapping[int, Sequence[str]], seed: int
) -> RankingExample:
    """The example with each class under its name or one of its synonyms, by lot.

    A class has one name within an example, and no two classes have the same.
    """
    chosen: dict[int, str] = {}
    for label in dict.fromkeys(candidate.label for candidate in example.candidates if candidate.label >= 0):
        forms = [names[label], *synonyms.get(label, ())]
        form = forms[rng_for(seed, "name", example.key, label).integers(len(forms))]
        others = {normalize_name(names[c.label]) for c in example.candidates if c.label not in (label, NONE_OF_THESE)}
        taken = others | {normalize_name(name) for name in chosen.values()} | {normalize_name(NONE_NAME)}
        chosen[label] = names[label] if normalize_name(form) in taken else form
    shown = tuple(replace(c, name=chosen.get(c.label, c.name)) for c in example.candidates)
    return replace(example, candidates=shown)


def build_examples(
    key: str,
    label: int,
    found: Sequence[Candidate],
    args: MiningArgs,
    names: Sequence[str],
    synonyms: Mapping[int, Sequence[str]],
) -> Iterator[tuple[RankingExample | None, str]]:
    """All examples of an image and a source, each with the reason for which it was kept or dropped.

    Args:
        key: Of the image and source.
        label: The true class.
        found: Neighbours, best first.
        args: Settings.
        names: Class names by label.
        synonyms: Other names by label.
    """
    for own, chosen in candidate_lists(key, label, found, args):
        k = max(len(chosen), args.k)
        example, reason = apply_policy(own, label, chosen, k, args.ground_truth, names)
        if example and args.names == "synonyms":
            example = with_synonyms(example, names, synonyms, args.seed)
        if example and args.none_of_these:
            example = with_none(example)
        yield example, reason
