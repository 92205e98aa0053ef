"""Turns ranked boxes into detections: records of image, class, box and score, as in result files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import batched_nms

from data_prep.core.records import Candidate
from data_prep.detection.proposals import Proposal
from data_prep.settings import DetectionArgs
from eval.detection.score_policies import POLICIES, Ranked


def make_detections(
    proposals: Sequence[Proposal],
    candidates: Sequence[Sequence[Candidate]],
    ranked: Sequence[Ranked],
    policy: str,
    categories: Sequence[int],
    args: DetectionArgs,
) -> list[dict]:
    """Makes a detection of each candidate of each box, within the thresholds and limits of the settings.

    Args:
        proposals: The boxes.
        candidates: Classes of each box, in the retriever's order.
        ranked: Scores and ranking of each box.
        policy: One of ``POLICIES``.
        categories: Category ids by label.
        args: Score threshold, IoU of the suppression and maximum number per image.

    Returns:
        list[dict]: ``image_id``, ``category_id``, ``bbox`` as in the file, and ``score``; grouped by image, best first.
    """
    by_image: dict[int, list[dict]] = defaultdict(list)
    for proposal, classes, box in zip(proposals, candidates, ranked, strict=True):
        for candidate, score in zip(classes, POLICIES[policy](box), strict=True):
            if score > 0 and score >= args.score_threshold:
                record = {"image_id": proposal.image, "category_id": categories[candidate.label]}
                by_image[proposal.image].append(record | {"bbox": list(proposal.bbox), "score": score})
    return [record for records in by_image.values() for record in suppress(records, args.nms_iou)[: args.max_dets]]


def suppress(records: list[dict], overlap: float) -> list[dict]:
    """Applies non-maximum suppression within each class; returns the remaining detections, best first.

    Args:
        records: Of one image.
        overlap: IoU above which the lower-scored of two is dropped; 1 keeps all.
    """
    if overlap >= 1:
        return sorted(records, key=lambda record: -record["score"])
    boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float64)
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.tensor([record["score"] for record in records], dtype=torch.float64)
    # Small class indices: torchvision separates classes by shifting their boxes by the index.
    _, classes = np.unique([record["category_id"] for record in records], return_inverse=True)
    return [records[i] for i in batched_nms(boxes, scores, torch.from_numpy(classes), overlap).tolist()]
