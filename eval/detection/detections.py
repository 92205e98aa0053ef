"""From ranked boxes to detections: records of image, class, box and score, as result files hold them."""

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
    """Names boxes: each by all of its candidates, as far as their scores and the limits allow.

    Args:
        proposals: The boxes.
        candidates: Classes of each, in the retriever's order.
        ranked: What is known about them.
        policy: One of ``POLICIES``.
        categories: Category ids by label.
        args: Least score, overlap and number per image.

    Returns:
        list[dict]: ``image_id``, ``category_id``, ``bbox`` as the file gave it, and ``score``; image by image, best
        first.
    """
    by_image: dict[int, list[dict]] = defaultdict(list)
    for proposal, own, box in zip(proposals, candidates, ranked, strict=True):
        for candidate, score in zip(own, POLICIES[policy](box), strict=True):
            if score > 0 and score >= args.score_threshold:
                record = {"image_id": proposal.image, "category_id": categories[candidate.label]}
                by_image[proposal.image].append(record | {"bbox": list(proposal.bbox), "score": score})
    return [record for records in by_image.values() for record in suppress(records, args.nms_iou)[: args.max_dets]]


def suppress(records: list[dict], overlap: float) -> list[dict]:
    """An image's detections, best first, without those that a better one of their class covers.

    Args:
        records: Of one image.
        overlap: IoU above which the lower of two is dropped; 1 keeps all.
    """
    if overlap >= 1:
        return sorted(records, key=lambda record: -record["score"])
    boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float64)
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.tensor([record["score"] for record in records], dtype=torch.float64)
    # Small numbers for the classes of this image: torchvision sets classes apart by shifting boxes.
    _, classes = np.unique([record["category_id"] for record in records], return_inverse=True)
    return [records[i] for i in batched_nms(boxes, scores, torch.from_numpy(classes), overlap).tolist()]
