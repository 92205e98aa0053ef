"""Lines of text about results."""

from __future__ import annotations

from data_prep.datasets import FEW_SHOT as FEW_SHOT_READERS
from eval.metrics.published import FEW_SHOT_ORDER
from eval.report.choice import calibration_lines, choice_lines
from eval.report.lines import (
    alone_lines,
    elsewhere_lines,
    leak_lines,
    note_lines,
    published_lines,
    shortfall_lines,
)
from eval.report.wording import describe_memory
from tests.eval.by_hand import row
from tests.eval.evaluation_folder import CHOICES, choice_of


def test_what_was_chosen_is_described_in_order_of_shots_with_the_curve_over_k():
    choices = CHOICES["choice"] | {"whole_set-0": choice_of("rar", 4) | {"permutations": 2}}
    lines = choice_lines({"dataset": "armory", "choice": choices})
    assert [line.partition(":")[0].partition(",")[0] for line in lines] == [
        *["zero shot"] * 2,
        *["4 shots"] * 2,
        *["full training set as memory"] * 2,
    ]
    points = "1: 71.0/71.0/74.0 (41/s), 5: 75.0/71.0/78.0 (41/s), [10: 80.0/71.0/83.0 (41/s)]"
    curve = f"recall/rar/rar_fused % (images/s) by k: {points}"
    assert lines[3] == f"4 shots, {curve}"
    assert "k = 4, 2 orders: highest" in lines[4]
    assert "[4: 74.0/71.0/77.0 (41/s)]" in lines[5]  # the chosen k is shown whatever it is


def test_choices_of_several_data_sets_name_them():
    both = {"armory": {"few_shot-1": choice_of("rar", 4)}, "dtd": {"few_shot-1": choice_of("rar", 5)}}
    lines = choice_lines({"datasets": ["armory", "dtd"], "choice": both})
    assert [line.partition(":")[0] for line in lines[::2]] == ["armory, 1 shot", "dtd, 1 shot"]


def test_results_without_a_choice_have_no_such_lines():
    assert choice_lines({"dataset": "armory"}) == calibration_lines({"dataset": "armory"}) == []


def test_the_calibration_error_is_given_before_and_after():
    (line,) = calibration_lines({"dataset": "armory"} | CHOICES)
    assert line.startswith(
        "4 shots: expected calibration error %, before and after calibration: rar 14.1 and 2.3, rar_f"
    )


def part_of(gain: float, shots: int = 4) -> dict:
    methods = {"clip_knn": {"mean": 0.5}, "rar": {"mean": 0.5 + gain}}
    part = {"task": "few_shot", "shots": shots, "methods": methods}
    return part | {"rar_minus_retriever": {"reference": "clip_knn", "mean": gain, "low": gain, "high": gain}}


def test_a_ranker_below_the_retriever_is_reported():
    results = {"summary": [part_of(-0.012), part_of(0.1)]}
    evaluated = "4 shots: rar is below the retriever, top-1 %: 48.8 against 50.0 (clip_knn) on the evaluated images"
    assert shortfall_lines(results) == [evaluated]
    several = [part | {"dataset": name} for name in ("armory", "average") for part in results["summary"]]
    assert len(shortfall_lines({"summary": several})) == 1  # the average alone
    # Validation images, where the choice was made, count too, and alone.
    point = {"k": 5, "rar": 0.401, "rar_fused": 0.7, "retriever": 0.6}
    choice = {"few_shot-4": choice_of("rar_fused", 5) | {"curve": [point | {"k": 1}, point]}}
    on_validation = "40.1 against 60.0 on validation images"
    assert shortfall_lines(results | {"choice": choice, "summary": [part_of(-0.012)]}) == [
        f"{evaluated}, {on_validation}"
    ]
    (line,) = shortfall_lines(results | {"choice": choice, "summary": [part_of(0.1)]})
    assert line == f"4 shots: rar is below the retriever, top-1 %: {on_validation}"


def test_what_to_know_before_believing_the_figures_comes_first():
    held = {"16": {"classes": 20, "fewer": 3, "most": 30}, "32": {"classes": 20, "fewer": 20, "most": 30}}
    results = {"dataset": "birds", "notes": ["nano-mllm: figures mean nothing"], "shots_held": held}
    assert note_lines(results) == [
        "nano-mllm: figures mean nothing",
        "16 images per class: 3 of 20 hold fewer; all images of those classes are used",
        "32 images per class: no class holds as many (30 at most); all images of those classes are used",
    ]
    assert describe_memory("few_shot", 16, results) == "16 shots"
    assert describe_memory("few_shot", 32, results) == "all images (32 shots)"
    several = {"datasets": ["birds", "dtd"], "notes": {"birds": ["x"], "dtd": ["x"]}, "shots_held": {"birds": held}}
    assert note_lines(several)[0] == "x" and note_lines(several)[1].startswith("birds, 16 images per class")
    both = several | {"shots_held": {"birds": held, "dtd": {}}}
    assert describe_memory("few_shot", 32, both) == "32 shots"  # not in every data set


def test_a_ranker_that_needs_no_retriever_is_reported():
    results = {
        "dataset": "armory",
        "summary": [part_of(0.1, 1), part_of(0.4, 4)],
        "rows": [row("ranker_alone", 1, 0.7)],
    }
    (line,) = alone_lines(results)
    assert "70.0 on 4 images" in line and line.endswith("memories: 1 shot")
    assert alone_lines(results | {"rows": [row("ranker_alone", 1, 0.6)]}) == []
    assert alone_lines(results | {"rows": []}) == []


def test_the_papers_results_are_shown_with_the_difference():
    row = {"task": "few_shot", "dataset": "dtd", "method": "rar", "shots": 4, "figure": "top1"}
    row |= {"measured": 60.0, "published": 53.9, "difference": 6.1}
    assert published_lines({"published": [row]}) == [
        "dtd, 4 shots: rar top1 60.0, paper 53.9 (arXiv 2403.13805), difference +6.1"
    ]


def test_what_others_publish_is_shown_with_its_source_for_the_same_protocol_only():
    part = {"task": "choice", "shots": 0, "methods": {}}
    results = {"dataset": "pets37", "split": "test", "choices": 4, "summary": [part]}
    lines = elsewhere_lines(results)
    assert len(lines) == 7
    assert lines[-1].startswith("pets37, 4-way choice, elsewhere: Fine-R1-7B seen 96.0, unseen 96.9 (Fine-R1 (arXiv")
    for other in ({"split": "val"}, {"choices": 5}, {"dataset": "armory"}):
        assert elsewhere_lines(results | other) == []
    average = [{"dataset": "average", "task": "few_shot", "shots": 4, "methods": {}}]
    eleven = {"datasets": sorted(set(FEW_SHOT_ORDER) - {"average"}), "dataset": "", "split": "test", "summary": average}
    (first, second) = elsewhere_lines(eleven)
    assert "CLIP + KNN top1 65.0 (quoted in review of RAR v2" in first and "RAR top1 69.9" in second
    halves = [f"{name}-{half}" for name in FEW_SHOT_READERS if name != "raf_db" for half in ("base", "new")]
    lines = elsewhere_lines(eleven | {"datasets": halves, "base_to_new": []})
    assert len(lines) == 11 and any("No-Thinking-RL base 83.4, new 81.9, H 82.6" in line for line in lines)
    assert elsewhere_lines(eleven | {"datasets": halves[:2], "base_to_new": []}) == []


def test_leaks_are_reported_where_there_are_any():
    none = {"images": 9, "embedded": 9, "exact": 0, "near": 0, "other_class": 0, "pairs": []}
    leaks = {"queries": 4, "clean": True, "near_from": 0.99, "near_queries": 4, "parts": {"test_memory": none}}
    assert leak_lines({"dataset": "dtd", "leaks": leaks}) == []
    leaky = leaks | {"parts": {"test_memory": none | {"exact": 2, "near": 1}, "training": none}}
    (line,) = leak_lines({"dataset": "dtd, food101", "datasets": ["dtd"], "leaks": {"dtd": leaky, "food101": leaks}})
    assert line.startswith("leaks, dtd: 2 of 4 evaluated images are in test_memory byte for byte, 1 of 4 have a near")
