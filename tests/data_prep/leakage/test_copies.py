"""Leak report: exact copies under any name, and near-duplicates by the embedded encoder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.core.files import file_hash
from data_prep.core.records import Sample, SpecialLabel
from data_prep.embedding.encoder import embed_images
from data_prep.leakage.copies import compute_leak_report, find_exact_copies, find_near_copies
from data_prep.settings import RetrieverArgs


def sample(key: str, label: int = 0, digest: str = "") -> Sample:
    return Sample(key, f"{key}.png", label, digest or f"digest of {key}")


def units(*angles: float) -> np.ndarray:
    """Returns unit vectors in the plane at angles in degrees."""
    radians = np.radians(angles)
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def test_exact_copies_are_found_whatever_their_names_and_classes():
    queries = [sample("a", 0, "1"), sample("b", 1, "2"), sample("c", 2, "3")]
    others = [sample("x", 1, "2"), sample("y", 5, "2"), sample("z", 0, "9")]
    copies = [(c.query, c.key, c.same_class) for c in find_exact_copies(queries, others, "train")]
    assert copies == [("b", "x", True), ("b", "y", False)]


def test_near_copies_are_not_exact_copies_and_at_most_one_per_query():
    queries = [sample("a", 0, "1"), sample("b", 1, "2"), sample("c", 2, "3")]
    # a: six exact copies hide a near one; b: two near ones, of which the nearer one counts; c: none near enough.
    others = [*(sample(f"copy{n}", 0, "1") for n in range(6)), sample("x", 3), sample("y", 1), sample("z", 1)]
    copies = find_near_copies(queries, units(0, 90, 180), others, units(*[0] * 6, 5, 86, 93), "train", 0.99)
    assert [(c.query, c.key, c.same_class) for c in copies] == [("b", "z", True), ("a", "x", False)]
    assert copies[1].similarity == pytest.approx(np.cos(np.radians(5)), abs=1e-5)
    only_copies = find_near_copies(queries[:1], units(0), others[:6], units(*[0] * 6), "train", 0.9)
    assert only_copies == []
    assert find_near_copies([], units(), others, units(*[0] * 9), "train", 0.9) == []
    assert find_near_copies(queries, units(0, 90, 180), [], units(), "train", 0.9) == []


def test_near_copies_equal_a_search_of_all_pairs():
    rng = np.random.default_rng(0)
    xq, xb = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 60, 3)).astype(np.float32))
    queries = [sample(f"q{n}", n % 3, f"{n % 7}") for n in range(60)]
    others = [sample(f"o{n}", n % 3, f"{n % 7}") for n in range(60)]
    scores = xq @ xb.T
    scores[[[q.digest == o.digest for o in others] for q in queries]] = -2
    expected = {f"q{n}": f"o{scores[n].argmax()}" for n in range(60) if scores[n].max() >= 0.95}
    assert {c.query: c.key for c in find_near_copies(queries, xq, others, xb, "train", 0.95)} == expected


@pytest.fixture
def leaked_images(armory, tmp_path):
    """Test images and a memory that holds one of them as it is, and one reencoded as JPEG."""
    queries, memory = armory.parts["test"][:8], list(armory.parts["test_memory"][:8])
    memory[0] = Sample("copy", queries[2].path, queries[2].label, queries[2].digest)
    reencoded = tmp_path / "reencoded.jpg"
    with Image.open(queries[5].path) as image:
        image.convert("RGB").save(reencoded, quality=92)
    memory[1] = Sample("reencoded", str(reencoded), queries[5].label + 1, file_hash(reencoded))
    return queries, memory


def test_a_report_counts_copies_by_part(leaked_images, armory, encoder, tmp_path):
    queries, memory = leaked_images
    others = {"test_memory": memory, "train": armory.parts["train"]}
    embedded = {
        part: (samples, embed_images(encoder, samples, RetrieverArgs(), Path(tmp_path)))
        for part, samples in {"queries": queries, **others}.items()
    }
    similarity = float(embedded["queries"][1][5] @ embedded["test_memory"][1][1])
    report = compute_leak_report(queries, others, embedded, threshold=similarity - 0.005)
    assert not report["clean"]
    part = report["parts"]["test_memory"]
    assert (part["images"], part["embedded"], part["exact"]) == (8, 8, 1)
    assert (report["queries"], report["near_queries"]) == (8, 8)
    assert part["near"] >= 1
    assert part["other_class"] >= 1
    pairs = {(pair["query"], pair["key"]): pair for pair in part["pairs"]}
    assert pairs[queries[2].key, "copy"]["similarity"] == 1
    assert pairs[queries[5].key, "reencoded"]["similarity"] == pytest.approx(similarity, abs=1e-3)
    assert not pairs[queries[5].key, "reencoded"]["same_class"]
    assert report["parts"]["train"]["exact"] == 0


def test_the_class_of_an_image_known_only_by_its_digest_is_not_reported(leaked_images, armory):
    queries, _ = leaked_images
    mined = [Sample(s.digest[:16], "", SpecialLabel.UNLABELLED, s.digest) for s in armory.parts["test"][1:3]]
    part = compute_leak_report(queries, {"training": mined})["parts"]["training"]
    assert (part["exact"], part["other_class"]) == (2, 0)
    assert [pair["same_class"] for pair in part["pairs"]] == [None, None]


def test_without_embeddings_only_exact_copies_are_searched_for(leaked_images, armory):
    queries, memory = leaked_images
    report = compute_leak_report(queries, {"test_memory": memory})
    assert report["near_from"] is None
    assert report["parts"]["test_memory"]["exact"] == 1
    assert compute_leak_report(queries, {"train": armory.parts["train"]})["clean"]
