"""Leaks: copies by content whatever their names, and near-duplicates by the shipped encoder's embeddings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.embedding.encoder import embed_images
from data_prep.leakage.copies import UNLABELLED, exact_copies, leak_report, near_copies
from data_prep.settings import RetrieverArgs


def sample(key: str, label: int = 0, digest: str = "") -> Sample:
    return Sample(key, f"{key}.png", label, digest or f"digest of {key}")


def units(*angles: float) -> np.ndarray:
    """Unit vectors in the plane, by degrees."""
    turned = np.radians(angles)
    return np.stack([np.cos(turned), np.sin(turned)], 1).astype(np.float32)


def test_exact_copies_are_found_whatever_their_names_and_classes():
    queries = [sample("a", 0, "1"), sample("b", 1, "2"), sample("c", 2, "3")]
    others = [sample("x", 1, "2"), sample("y", 5, "2"), sample("z", 0, "9")]
    found = [(c.query, c.key, c.same_class) for c in exact_copies(queries, others, "train")]
    assert found == [("b", "x", True), ("b", "y", False)]


def test_near_copies_are_no_exact_copies_and_at_most_one_a_query():
    queries = [sample("a", 0, "1"), sample("b", 1, "2"), sample("c", 2, "3")]
    # a: six exact copies hide a near one; b: two near ones, of which the nearer counts; c: none near enough.
    others = [*(sample(f"copy{n}", 0, "1") for n in range(6)), sample("x", 3), sample("y", 1), sample("z", 1)]
    found = near_copies(queries, units(0, 90, 180), others, units(*[0] * 6, 5, 86, 93), "train", 0.99)
    assert [(c.query, c.key, c.same_class) for c in found] == [("b", "z", True), ("a", "x", False)]
    assert found[1].similarity == pytest.approx(np.cos(np.radians(5)), abs=1e-5)
    only_copies = near_copies(queries[:1], units(0), others[:6], units(*[0] * 6), "train", 0.9)
    assert only_copies == []
    assert near_copies([], units(), others, units(*[0] * 9), "train", 0.9) == []
    assert near_copies(queries, units(0, 90, 180), [], units(), "train", 0.9) == []


def test_near_copies_equal_a_search_of_all_pairs():
    rng = np.random.default_rng(0)
    xq, xb = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 60, 3)).astype(np.float32))
    queries = [sample(f"q{n}", n % 3, f"{n % 7}") for n in range(60)]
    others = [sample(f"o{n}", n % 3, f"{n % 7}") for n in range(60)]
    scores = xq @ xb.T
    scores[[[q.digest == o.digest for o in others] for q in queries]] = -2
    expected = {f"q{n}": f"o{scores[n].argmax()}" for n in range(60) if scores[n].max() >= 0.95}
    assert {c.query: c.key for c in near_copies(queries, xq, others, xb, "train", 0.95)} == expected


@pytest.fixture
def pictures(armory, tmp_path):
    """Test pictures, of which one lies in the memory as it is, and one saved anew as JPEG."""
    queries, memory = armory.parts["test"][:8], list(armory.parts["test_memory"][:8])
    memory[0] = Sample("copy", queries[2].path, queries[2].label, queries[2].digest)
    anew = tmp_path / "anew.jpg"
    with Image.open(queries[5].path) as image:
        image.convert("RGB").save(anew, quality=92)
    memory[1] = Sample("anew", str(anew), queries[5].label + 1, file_hash(anew))
    return queries, memory


def test_a_report_counts_copies_by_part(pictures, armory, encoder, tmp_path):
    queries, memory = pictures
    others = {"test_memory": memory, "train": armory.parts["train"]}
    embedded = {
        part: (samples, embed_images(encoder, samples, RetrieverArgs(), Path(tmp_path)))
        for part, samples in {"queries": queries, **others}.items()
    }
    similarity = float(embedded["queries"][1][5] @ embedded["test_memory"][1][1])
    report = leak_report(queries, others, embedded, least=similarity - 0.005)
    assert not report["clean"]
    found = report["parts"]["test_memory"]
    assert (found["images"], found["embedded"], found["exact"]) == (8, 8, 1)
    assert (report["queries"], report["near_queries"]) == (8, 8)
    assert found["near"] >= 1
    assert found["other_class"] >= 1
    pairs = {(pair["query"], pair["key"]): pair for pair in found["pairs"]}
    assert pairs[queries[2].key, "copy"]["similarity"] == 1
    assert pairs[queries[5].key, "anew"]["similarity"] == pytest.approx(similarity, abs=1e-3)
    assert not pairs[queries[5].key, "anew"]["same_class"]
    assert report["parts"]["train"]["exact"] == 0


def test_of_pictures_known_by_content_alone_no_class_is_told(pictures, armory):
    queries, _ = pictures
    mined = [Sample(s.digest[:16], "", UNLABELLED, s.digest) for s in armory.parts["test"][1:3]]
    found = leak_report(queries, {"training": mined})["parts"]["training"]
    assert (found["exact"], found["other_class"]) == (2, 0)
    assert [pair["same_class"] for pair in found["pairs"]] == [None, None]


def test_without_embeddings_only_exact_copies_are_sought(pictures, armory):
    queries, memory = pictures
    report = leak_report(queries, {"test_memory": memory})
    assert report["near_from"] is None
    assert report["parts"]["test_memory"]["exact"] == 1
    assert leak_report(queries, {"train": armory.parts["train"]})["clean"]
