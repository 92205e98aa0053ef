"""Ranking metrics of one evaluation: top-k hits, accuracy by stage and by position, AUROC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.core.recall import true_ranks


def hits_at(ranked: Sequence[Sequence[int]], truths: Sequence[int], k: int) -> np.ndarray:
    """Returns per image whether the true label is among the first k.

    Args:
        ranked: Labels per image, best first.
        truths: The true label per image.
        k: How many labels count.

    Returns:
        np.ndarray: Booleans of shape ``[n]``.
    """
    return np.array(true_ranks(ranked, truths, k), int) < k


def staged_accuracy(
    retriever_hits: Sequence[bool],
    ranker_hits: Sequence[bool],
    in_candidates: Sequence[bool],
    outcomes: Mapping[str, int],
) -> dict:
    """Compares the ranker with the retriever on the same candidates.

    Args:
        retriever_hits: Per image, whether the retriever's top candidate is the true class.
        ranker_hits: Per image, whether the ranker's top candidate is.
        in_candidates: Per image, whether the true class is among the candidates.
        outcomes: Number of images by parse outcome of the reply.

    Returns:
        dict: ``top1_given_hit``, top-1 where the true class is among the candidates (None where it never is);
        ``corrected``, the number of images that the retriever gets wrong and the ranker right, and ``broken``, the
        other way round; and ``outcomes``.
    """
    columns = (retriever_hits, ranker_hits, in_candidates)
    retriever_hits, ranker_hits, in_candidates = (np.array(column, bool) for column in columns)
    return {
        "top1_given_hit": float(ranker_hits[in_candidates].mean()) if in_candidates.any() else None,
        "corrected": int((ranker_hits & ~retriever_hits).sum()),
        "broken": int((retriever_hits & ~ranker_hits).sum()),
        "outcomes": dict(sorted(outcomes.items())),
    }


def top1_by_position(truths: Sequence[int], chosen: Sequence[int], count: int) -> list[dict]:
    """Computes top-1 by the position of the true class among the candidates: flat without position bias.

    Args:
        truths: The true class's position per image, from 0.
        chosen: The position of the ranker's top candidate per image.
        count: Number of positions.

    Returns:
        list[dict]: Per position (``place``, from 1): ``n``, the images whose true class was there, ``top1`` on them
        (None without any), and ``chosen``, the share of all images whose top candidate was there.
    """
    true_positions, chosen_positions = np.array(truths, int), np.array(chosen, int)
    rows = []
    for position in range(count):
        here = true_positions == position
        rows.append(
            {
                "place": position + 1,
                "n": int(here.sum()),
                "top1": float((chosen_positions[here] == position).mean()) if here.any() else None,
                "chosen": float((chosen_positions == position).mean()) if len(chosen_positions) else None,
            }
        )
    return rows


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Computes the probability that a positive scores above a negative; ties count half.

    Args:
        positive: At least one score.
        negative: At least one score.
    """
    ordered = np.sort(negative)
    below, at_most = (np.searchsorted(ordered, positive, side).sum() for side in ("left", "right"))
    return float((below + at_most) / 2 / (len(positive) * len(negative)))


def percent(shares: Sequence[float]) -> str:
    """Formats the mean of shares in per cent, with the standard deviation where there are several."""
    deviation = f" ± {100 * np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
    return f"{100 * np.mean(shares):.1f}{deviation}"
