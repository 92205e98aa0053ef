"""The headline of the report page."""

from __future__ import annotations

from eval.report.headline import headline, used_methods
from eval.report.reading import read_evaluations
from tests.eval.evaluation_folder import CHOICES, write_evaluation


def read(folder) -> dict:
    ((_, evaluated),) = read_evaluations(folder)
    return evaluated.results


def test_a_strip_has_retriever_untuned_tuned_fused_and_ceiling(tmp_path):
    results = read(write_evaluation(tmp_path, True, CHOICES))
    strips = headline(results)
    assert [strip["memory"] for strip in strips] == ["zero shot", "1 shot", "4 shots"]
    tiles = strips[2]["tiles"]
    assert [tile["label"] for tile in tiles] == ["best retriever", "untuned", "tuned", "fused", "ceiling"]
    assert tiles[0]["method"] == "clip_knn" and tiles[4]["mean"] == 100
    assert (tiles[2]["mean"], tiles[2]["low"], tiles[2]["high"]) == (50, 40, 60)
    (badge,) = tiles[3]["badges"]
    assert badge == {"gain": "+10.0", "interval": "+5.0 to +25.0", "over": "clip_knn", "sign": "good"}
    # Its interval includes 0.
    assert [(badge["over"], badge["sign"]) for badge in tiles[2]["badges"]] == [
        ("clip_knn", "even"),
        ("rar_untuned", "even"),
    ]


def test_the_method_that_was_chosen_is_marked(tmp_path):
    results = read(write_evaluation(tmp_path, True, CHOICES))
    marked = [[tile["method"] for tile in strip["tiles"] if tile["used"]] for strip in headline(results)]
    assert marked == [["clip_knn"], [], ["rar_fused"]]  # the retriever alone, no choice, and the fused ranking
    assert used_methods(results) == {("zero_shot", 0): "clip_knn", ("few_shot", 1): "rar", ("few_shot", 4): "rar_fused"}


def test_the_retriever_that_is_used_is_marked_whichever_is_the_best_on_the_evaluated_images(tmp_path):
    results = read(write_evaluation(tmp_path, True, CHOICES))
    for part in results["summary"]:
        part["methods"]["clip_fused"] = {"mean": 0.4, "sd": 0.0, "low": 0.3, "high": 0.5}
    zero_shot = headline(results)[0]["tiles"]  # the choice is the retriever alone, with the source "fused"
    assert [(tile["label"], tile["method"], tile["used"]) for tile in zero_shot[:2]] == [
        ("best retriever", "clip_knn", False),
        ("retriever", "clip_fused", True),
    ]


def test_a_ranker_below_the_retriever_is_noted(tmp_path):
    results = read(write_evaluation(tmp_path))
    results["summary"][1]["rar_minus_retriever"] |= {"mean": -0.02, "low": -0.03, "high": -0.01}
    strip = headline(results)[1]
    text = "rar is below the retriever, top-1 %: 50.0 against 50.0 (clip_knn) on the evaluated images."
    assert strip["notes"] == [text]
    assert strip["tiles"][2]["badges"][0]["sign"] == "bad"
