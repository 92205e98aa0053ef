"""Builds ranking examples from the candidates retrieved for an image: pure functions of lists and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from data_prep.core.names import normalize_name
from data_prep.core.records import Candidate, RankingExample, SpecialLabel
from data_prep.core.rng import rng_for
from data_prep.prompting.prompts import NONE_NAME
from data_prep.settings import MiningArgs


def select_candidates(
    key: str, label: int, retrieved: Sequence[Candidate], args: MiningArgs
) -> Iterator[tuple[str, tuple[Candidate, ...]]]:
    """Selects the candidates of each example from the retrieved ones.

    Args:
        key: Key of the image and source; seeds the random choices.
        label: The true class.
        retrieved: Candidates, best first; ``args.depth`` of them if that many were retrieved.
        args: Settings.

    Yields:
        tuple[str, tuple[Candidate, ...]]: The key of each list and its candidates in retriever order.
    """
    if args.construction == "windows":
        # Fewer candidates than a window still give one list, so that every image is counted.
        for start in range(max(len(retrieved) - args.k, 0) + 1):
            yield f"{key}-w{start:02d}", tuple(retrieved[start : start + args.k])
        return
    k = args.k if args.k_max is None else int(rng_for(args.seed, "k", key).integers(args.k, args.k_max + 1))
    yield key, _select_with_easy_negatives(key, label, retrieved, k, args)


def _select_with_easy_negatives(
    key: str, label: int, retrieved: Sequence[Candidate], k: int, args: MiningArgs
) -> tuple[Candidate, ...]:
    """Selects the k nearest, some replaced by random ones of lower rank; a truth among the k nearest stays."""
    if not args.num_easy_negatives or len(retrieved) <= k:
        return tuple(retrieved[:k])
    num_hard = k - args.num_easy_negatives
    hard = [*range(num_hard), *(i for i in range(num_hard, k) if retrieved[i].label == label)][:k]
    remaining = [i for i in range(num_hard, min(len(retrieved), args.easy_negative_max_rank)) if i not in hard]
    sampled = rng_for(args.seed, "easy", key).permutation(len(remaining))[: k - len(hard)]
    return tuple(retrieved[i] for i in sorted([*hard, *(remaining[i] for i in sampled)]))


def apply_policy(
    key: str, label: int, candidates: tuple[Candidate, ...], k: int, policy: str, names: Sequence[str]
) -> tuple[RankingExample | None, str]:
    """Applies the ground-truth policy: keeps, completes or drops an example.

    Args:
        key: Key of the example.
        label: The true class.
        candidates: Candidates in retriever order.
        k: Number of candidates there should be; an inserted truth replaces the k-th.
        policy: ``mining.ground_truth``.
        names: Class names by label.

    Returns:
        tuple[RankingExample | None, str]: The example or None, and the reason under which it is counted.
    """
    reason = "truth retrieved"
    if all(candidate.label != label for candidate in candidates):
        if policy == "only_if_retrieved" and len(candidates) >= 2:
            return None, "dropped: truth not retrieved"
        reason = "kept without truth"
        if policy == "insert" and candidates:
            reason = "truth inserted"
            candidates = (*candidates[: k - 1], Candidate(label, names[label], candidates[-1].score))
    if len(candidates) < 2:
        return None, "dropped: fewer than two candidates"
    return RankingExample(key, label, candidates), reason


def add_none_of_these(example: RankingExample) -> RankingExample:
    """Returns the example with ``none of these`` appended to its candidates."""
    last = Candidate(SpecialLabel.NONE_OF_THESE, NONE_NAME, example.candidates[-1].score)
    return replace(example, candidates=(*example.candidates, last))


def substitute_synonyms(
    example: RankingExample, names: Sequence[str], synonyms: Mapping[int, Sequence[str]], seed: int
) -> RankingExample:
    """Returns the example with each class under its name or one of its synonyms, chosen at random.

    A class has a single name within an example, and no two classes share one.
    """
    chosen: dict[int, str] = {}
    for label in dict.fromkeys(candidate.label for candidate in example.candidates if candidate.label >= 0):
        forms = [names[label], *synonyms.get(label, ())]
        form = forms[rng_for(seed, "name", example.key, label).integers(len(forms))]
        others = {
            normalize_name(names[c.label])
            for c in example.candidates
            if c.label not in (label, SpecialLabel.NONE_OF_THESE)
        }
        taken = others | {normalize_name(name) for name in chosen.values()} | {normalize_name(NONE_NAME)}
        chosen[label] = names[label] if normalize_name(form) in taken else form
    renamed = tuple(replace(c, name=chosen.get(c.label, c.name)) for c in example.candidates)
    return replace(example, candidates=renamed)


def build_examples(
    key: str,
    label: int,
    retrieved: Sequence[Candidate],
    args: MiningArgs,
    names: Sequence[str],
    synonyms: Mapping[int, Sequence[str]],
) -> Iterator[tuple[RankingExample | None, str]]:
    """Builds all examples of an image and a source.

    Args:
        key: Key of the image and source.
        label: The true class.
        retrieved: Candidates, best first.
        args: Settings.
        names: Class names by label.
        synonyms: Other names by label.

    Yields:
        tuple[RankingExample | None, str]: Each example, or None, and the reason it was kept or dropped.
    """
    for example_key, candidates in select_candidates(key, label, retrieved, args):
        k = max(len(candidates), args.k)
        example, reason = apply_policy(example_key, label, candidates, k, args.ground_truth, names)
        if example and args.names == "synonyms":
            example = substitute_synonyms(example, names, synonyms, args.seed)
        if example and args.none_of_these:
            example = add_none_of_these(example)
        yield example, reason
