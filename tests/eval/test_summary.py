"""The summary over seeds on figures that one can work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from eval.summary import print_table, summarise

CLASSES = np.array([0, 0, 1, 1])
# Top-1 hits of four images by seed.
HITS = {
    "clip_knn": {1: [1, 0, 0, 0], 2: [0, 0, 0, 0]},
    "clip_zero_shot": {1: [1, 1, 0, 0], 2: [1, 1, 0, 0]},
    "rar_untuned": {1: [1, 0, 1, 0], 2: [1, 0, 0, 0]},
    "rar": {1: [1, 1, 1, 1], 2: [1, 1, 1, 0]},
}


def row(method: str, seed: int, top1: float) -> dict:
    head = {"task": "few_shot", "dataset": "armory", "shots": 4, "seed": seed, "method": method, "mode": "", "k": 5}
    return head | {"n": 4, "top1": top1, "top5": 1.0, "recall_at_k": 1.0}


@pytest.fixture
def rows() -> list[dict]:
    return [row(method, seed, float(np.mean(hits))) for method, own in HITS.items() for seed, hits in own.items()]


@pytest.fixture
def hits() -> dict:
    return {
        ("few_shot", 4, seed, method): np.array(values, float)
        for method, own in HITS.items()
        for seed, values in own.items()
    }


def test_methods_have_mean_and_sample_deviation_over_seeds(rows, hits):
    (part,) = summarise(rows, hits, CLASSES, 200)
    assert (part["task"], part["shots"], part["seeds"]) == ("few_shot", 4, 2)
    assert part["methods"]["rar"] == {"mean": pytest.approx(0.875), "sd": pytest.approx(0.25 / 2**0.5)}
    assert part["methods"]["clip_zero_shot"] == {"mean": 0.5, "sd": 0.0}
    assert set(part["methods"]) == set(HITS)


def test_gains_are_against_the_best_retriever_and_the_untuned_ranker_seeds_averaged_first(rows, hits):
    (part,) = summarise(rows, hits, CLASSES, 200)
    gain = part["rar_minus_retriever"]
    assert (gain["reference"], gain["mean"]) == ("clip_zero_shot", pytest.approx(0.375))
    # Class 0 gains nothing, class 1 gains 0.75: no draw of classes leaves that range.
    assert (gain["low"], gain["high"]) == (pytest.approx(0), pytest.approx(0.75))
    untuned = part["rar_minus_untuned"]
    assert (untuned["reference"], untuned["mean"]) == ("rar_untuned", pytest.approx(0.5))


def test_one_seed_has_no_deviation_and_the_ranker_alone_stays_out_of_the_summary(rows, hits):
    rows = [one for one in rows if one["seed"] == 1] + [row("ranker_alone", 1, 0.25)]
    hits = {key: value for key, value in hits.items() if key[2] == 1}
    (part,) = summarise(rows, hits, CLASSES, 50)
    assert part["seeds"] == 1 and {figures["sd"] for figures in part["methods"].values()} == {0.0}
    assert "ranker_alone" not in part["methods"]


def test_tasks_and_shots_are_summarised_apart(rows, hits):
    more = [one | {"shots": 8} for one in rows]
    more_hits = {(task, 8, seed, method): value for (task, _, seed, method), value in hits.items()}
    found = summarise(rows + more, hits | more_hits, CLASSES, 50)
    assert [(part["task"], part["shots"]) for part in found] == [("few_shot", 4), ("few_shot", 8)]


def test_the_table_shows_every_method_in_per_cent_and_the_gains_in_points(rows, hits, capsys):
    rows.append(row("ranker_alone", 1, 0.25))
    summary = summarise(rows, hits, CLASSES, 200)
    head = {"dataset": "armory", "split": "test", "mode": "letters", "k": 5}
    print_table(head | {"rows": rows, "summary": summary})
    printed = capsys.readouterr().out
    line = next(text for text in printed.splitlines() if " rar " in text)
    assert "87.5 ± 17.7" in line and "100.0 ± 0.0" in line
    assert all(method in printed for method in (*HITS, "ranker_alone"))
    assert "few_shot 4: rar - clip_zero_shot = +37.5 points" in printed
    assert "few_shot 4: rar - rar_untuned = +50.0 points" in printed


def test_the_table_tells_what_the_ranker_moved_and_the_lines_below_what_else_was_measured(rows, hits, capsys):
    staged = {"top1_given_hit": 0.91, "corrected": 17, "broken": 3, "outcomes": {"ok": 3, "unreadable": 1}}
    rows = [one | staged if one["method"] == "rar" else one for one in rows]
    place = {"place": 1, "n": 4, "top1": 0.625, "chosen": 0.5}
    curve = [{"share": tenth / 10, "top1": 0.5 + tenth / 100} for tenth in range(11)]
    more = {
        "by_place": {"rar": {"shown": [place, place | {"top1": None}]}},
        "gate": {"few_shot-4": {"by": "margin", "share_asked": 0.3, "curve": curve}},
        "unknown": {"auroc": {"score": 0.812}, "signal": "score", "known_accepted": 0.7, "unknown_refused": 0.8},
    }
    head = {"dataset": "armory", "split": "test", "mode": "generate", "k": 5}
    print_table(head | {"rows": rows, "summary": summarise(rows, hits, CLASSES, 50)} | more)
    printed = " ".join(capsys.readouterr().out.split())
    for figure in ("91.0 ± 0.0", "17 / 3", "rar: replies ok 6, unreadable 2", "truth is shown: 62.5, -"):
        assert figure in printed
    for figure in (
        "asks about 30 % of the images",
        "ranked: 50.0, 51.0",
        "AUROC score 0.812",
        "70.0 % of known images",
    ):
        assert figure in printed
