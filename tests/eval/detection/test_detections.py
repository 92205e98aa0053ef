"""Ranked boxes become result records: scores, limits, and suppression against a naive implementation."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.records import Candidate, Ranking
from data_prep.detection.proposals import Proposal
from data_prep.embedding.regions import Region
from data_prep.settings import DetectionArgs
from eval.detection.detections import make_detections, suppress
from eval.detection.score_policies import Ranked

REGION = Region("a.png", "0", (0, 0, 10, 10))
CATEGORIES = (11, 12, 13)


def make_candidates(*labels: int) -> tuple[Candidate, ...]:
    return tuple(Candidate(label, f"class {label}", 0.5) for label in labels)


def detect(args: DetectionArgs) -> list[dict]:
    """Makes detections of three boxes in two images; the first two overlap and their classes differ in order."""
    proposals = [
        Proposal(REGION, 1, (-3.5, 0, 20, 20)),
        Proposal(REGION, 1, (-3.5, 1, 20, 20)),
        Proposal(REGION, 2, (5, 5, 9, 9)),
    ]
    ranked = [
        Ranked(1.0, (0.7, 0.2), Ranking((0, 1), (0.9, 0.1))),
        Ranked(1.0, (0.6, 0.4), Ranking((1, 0), (0.2, 0.8))),
        Ranked(0.5, (0.5, 0.3), Ranking((0, 1), (1.0, 0.0))),
    ]
    return make_detections(
        proposals,
        [make_candidates(0, 1), make_candidates(0, 2), make_candidates(2, 1)],
        ranked,
        "ranker_probability",
        CATEGORIES,
        args,
    )


def test_each_box_has_all_its_candidates_with_the_category_ids_of_the_file():
    detections = detect(DetectionArgs(nms_iou=1, score_threshold=0))
    assert [(d["image_id"], d["category_id"], d["score"]) for d in detections] == [
        (1, 11, 0.9),
        (1, 13, 0.8),
        (1, 11, 0.2),
        (1, 12, 0.1),
        (2, 13, 0.5),
    ]
    assert detections[0]["bbox"] == [-3.5, 0, 20, 20]


def test_of_overlapping_boxes_of_a_class_only_the_best_is_kept():
    assert [(d["category_id"], d["score"]) for d in detect(DetectionArgs(nms_iou=0.5)) if d["image_id"] == 1] == [
        (11, 0.9),
        (13, 0.8),
        (12, 0.1),
    ]


def test_detections_below_the_threshold_or_above_the_maximum_per_image_are_dropped():
    assert [d["score"] for d in detect(DetectionArgs(nms_iou=1, score_threshold=0.2))] == [0.9, 0.8, 0.2, 0.5]
    assert [d["score"] for d in detect(DetectionArgs(nms_iou=1, max_dets=1))] == [0.9, 0.5]


def iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    return intersection / (a[2] * a[3] + b[2] * b[3] - intersection)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.3, 0.5, 0.9]))
@settings(max_examples=40, deadline=None)
def test_suppression_is_greedy_within_each_class(seed, count, overlap):
    rng = np.random.default_rng(seed)
    records = [
        {
            "category_id": int(rng.choice([3, 9000, 13204])),
            "bbox": [*rng.uniform(0, 30, 2).tolist(), *rng.uniform(5, 40, 2).tolist()],
            "score": float(score),
        }
        for score in rng.permutation(count) / count
    ]
    expected: list[dict] = []
    for record in sorted(records, key=lambda record: -record["score"]):
        same_class = [better for better in expected if better["category_id"] == record["category_id"]]
        if all(iou(record["bbox"], better["bbox"]) <= overlap for better in same_class):
            expected.append(record)
    assert suppress(records, overlap) == expected
