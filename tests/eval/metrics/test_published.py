"""The paper's published results are consistent, and are compared with measured ones."""

import numpy as np
import pytest

from data_prep.datasets import FEW_SHOT as FEW_SHOT_READERS
from data_prep.datasets import FINE_GRAINED as FINE_GRAINED_READERS
from eval.metrics.published import FEW_SHOT, FEW_SHOT_GAIN, FEW_SHOT_ORDER, FINE_GRAINED, add_published, published


def test_published_averages_are_the_means_of_their_rows():
    for key, row in FEW_SHOT.items():
        values = [value for name, value in row.items() if name != "average"]
        assert len(values) == 11
        assert np.mean(values) == pytest.approx(row["average"], abs=0.06), key
    for method, row in FINE_GRAINED.items():
        mean = np.mean([value for name, value in row.items() if name != "average"], axis=0)
        assert mean == pytest.approx(row["average"], abs=0.11), method
    for shots in (4, 8):
        gain = FEW_SHOT[shots, "rar"]["average"] - FEW_SHOT[shots, "clip_knn"]["average"]
        assert gain == pytest.approx(FEW_SHOT_GAIN[shots], abs=0.06)


def test_data_sets_have_the_names_of_their_readers():
    assert set(FEW_SHOT_ORDER) - {"average"} == FEW_SHOT_READERS.keys() - {"fgvc_aircraft"}
    for row in FINE_GRAINED.values():
        assert row.keys() - {"average"} == FINE_GRAINED_READERS.keys()


def test_measured_metrics_are_compared_with_the_papers():
    rows = add_published(
        [
            {
                "task": "few_shot",
                "dataset": "dtd",
                "method": "rar",
                "shots": 4,
                "figures": {"top1": 60.0, "top5": 80.0},
            },
            {"task": "few_shot", "dataset": "dtd", "method": "rar", "shots": 2, "figures": {"top1": 50.0}},
            {"task": "few_shot", "dataset": "armory", "method": "rar", "shots": 4, "figures": {"top1": 50.0}},
            {"task": "fine_grained", "dataset": "pets37", "method": "RAR", "figures": {"cacc": 70.0, "sacc": 75.0}},
            {"task": "detection", "dataset": "lvis", "method": "CLIP", "figures": {"APr": 41.0}},
        ]
    )
    compared = [(row["dataset"], row["figure"], row["measured"], row["published"]) for row in rows]
    assert compared == [
        ("dtd", "top1", 60.0, 53.9),
        ("pets37", "cacc", 70.0, 74.1),
        ("pets37", "sacc", 75.0, 74.8),
        ("lvis", "APr", 41.0, 40.6),
    ]
    assert [row["difference"] for row in rows] == pytest.approx([6.1, -4.1, 0.2, 0.4])
    assert rows[0]["shots"] == 4


def test_results_that_the_paper_does_not_report_are_empty():
    assert published("few_shot", "fgvc_aircraft", "rar", 4) == {}
    assert published("zero_shot", "dtd", "rar") == {}
    assert published("detection", "v3det", "RegionCLIP") == {}
