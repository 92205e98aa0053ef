"""The report's statistics agree with the examples, and the page shows them."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from data_prep.core.records import Candidate, RankingExample, Sample, SpecialLabel
from data_prep.mining.report import write_report
from data_prep.mining.shards import write_shards
from data_prep.prompting.prompt_lengths import TokenCounter
from data_prep.prompting.prompts import NONE_NAME, letters_prompt, list_prompt
from data_prep.settings.loading import load_recipe

NAMES = ["a <b>bold</b> cat", "dog's", "cow", NONE_NAME]


@pytest.fixture
def shards(tmp_path, draw_picture):
    """Shards of seven examples of two of five classes, and the examples."""
    folder = tmp_path / "examples-train-x"
    folder.mkdir()
    pairs = []
    for n in range(7):
        labels = [(n + i) % 3 for i in range(3)] if n < 6 else [1, 2, SpecialLabel.NONE_OF_THESE]
        candidates = tuple(Candidate(label, NAMES[label], 0.5) for label in labels)
        path = draw_picture(tmp_path / f"{n}.png", n)
        pairs.append((RankingExample(f"key{n}-image", int(n < 2), candidates), Sample(f"key{n}", str(path), 0, "")))
    metadata = {"part": "train", "dataset": "pets", "classes": 5, "counts": {"truth retrieved": 6}}
    metadata |= {
        "recall": {"image": {"1": 0.25, "3": 0.75}},
        "copies": {"equal": 2, "near": 1, "conflicting_classes": 0},
    }
    (folder / "copies.jsonl").write_text('{"key": "key1", "other": "key2", "similarity": 0.999}\n')
    write_shards(folder, pairs, 3, metadata | {"copies_above": 0.99})
    return folder, [example for example, _ in pairs]


@pytest.fixture
def recipe(tmp_path):
    return load_recipe(["recipe=ranker_lora", f"cache={tmp_path / 'cache'}"])


def test_statistics_agree_with_the_examples(shards, recipe):
    folder, examples = shards
    report = json.loads((write_report(folder, recipe).parent / "report.json").read_text())
    assert report["examples"] == 7 and report["counts"] == {"truth retrieved": 6}
    assert report["position"]["retrieved"] == {
        str(k + 1): v for k, v in sorted(Counter(e.truth for e in examples).items())
    }
    assert sum(report["position"]["shown"].values()) == 7
    assert report["candidates"] == {"3": 7}
    classes = report["classes"]
    assert (classes["with_examples"], classes["without_examples"], classes["least"], classes["most"]) == (2, 3, 2, 5)
    count = TokenCounter("nano-mllm")
    lengths = count([list_prompt([c.name for c in e.candidates]) for e in examples])
    assert (report["tokens"]["list prompt"]["least"], report["tokens"]["list prompt"]["most"]) == (
        min(lengths),
        max(lengths),
    )
    assert report["copies_listed"] == [{"key": "key1", "other": "key2", "similarity": 0.999}]


def test_descriptions_count_in_the_lengths_of_prompts(shards, recipe, tmp_path):
    folder = tmp_path / "described"
    folder.mkdir()
    path = tmp_path / "0.png"
    candidates = (Candidate(0, "cat", 0.5, None, "purrs " * 50), Candidate(1, "cow", 0.4))
    pair = RankingExample("key-image", 0, candidates), Sample("key", str(path), 0, "")
    write_shards(folder, [pair], 1, {"part": "train", "dataset": "pets", "classes": 2, "counts": {}})
    tokens = json.loads((write_report(folder, recipe).parent / "report.json").read_text())["tokens"]
    prompts = [list_prompt(["cat", "cow"], descriptions=pair[0].descriptions)]
    prompts.append(letters_prompt(["cat", "cow"], pair[0].descriptions))
    measured = [tokens[kind]["most"] for kind in ("list prompt", "letters prompt")]
    assert measured == TokenCounter("nano-mllm")(prompts)


def test_the_page_shows_statistics_images_and_escaped_names(shards, recipe):
    page = write_report(shards[0], recipe).read_text(encoding="utf-8")
    assert "pets: 7 train examples" in page and "@3 75.0 %" in page
    assert page.count("data:image/jpeg;base64,") == 7
    assert "a &lt;b&gt;bold&lt;/b&gt; cat" in page and "<b>bold</b>" not in page
    assert len(re.findall(r'<li class="truth">', page)) == 7


def test_a_report_is_reused_and_a_missing_tokenizer_is_reported(shards, recipe, tmp_path):
    first = write_report(shards[0], recipe)
    before = first.stat().st_mtime_ns
    assert write_report(shards[0], recipe) == first and first.stat().st_mtime_ns == before
    (tmp_path / "empty").mkdir()
    other = replace(recipe, ranker=replace(recipe.ranker, model=str(tmp_path / "empty")))
    report = json.loads((write_report(shards[0], other).parent / "report.json").read_text())
    assert report["tokens"] == {} and "could not be loaded" in report["tokens_missing"]
