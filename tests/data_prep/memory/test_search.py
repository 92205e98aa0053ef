"""Retrieval of k distinct classes, compared with a brute-force reference in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.records import Candidate
from data_prep.memory.columns import Results
from data_prep.memory.fetching import nearest_entries
from data_prep.memory.memories import Memories, to_candidates
from data_prep.memory.memory import Entry, Memory
from data_prep.memory.options import SearchOptions
from data_prep.memory.search import class_scores, fused_classes, nearest_classes
from data_prep.settings import RetrieverArgs

AGGREGATES = ["max", "mean", "prototype"]


def unit(rows) -> np.ndarray:
    vectors = np.asarray(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_query(results: Results) -> list[dict[int, float]]:
    """Converts results to the scores by label of each query, best first; checks padding and order."""
    scores, labels = results
    assert scores.shape == labels.shape and scores.dtype == np.float32 and labels.dtype == np.int64
    assert np.array_equal(labels < 0, np.isneginf(scores))
    assert (scores[:, 1:] <= scores[:, :-1]).all()  # so padding is last
    found = [{label: score for label, score in zip(*row, strict=True) if label >= 0} for row in _rows(labels, scores)]
    assert [len(row) for row in found] == (labels >= 0).sum(1).tolist()  # the labels are distinct
    return found


def _rows(labels: np.ndarray, scores: np.ndarray):
    return zip(labels.tolist(), scores.tolist(), strict=True)


@st.composite
def searches(draw):
    """Generates memories on a coarse grid, where ties and copies are common, and queries with a digest to exclude."""
    vector = st.tuples(*[st.integers(-2, 2)] * 3).filter(any)
    rows = draw(st.lists(st.tuples(vector, st.integers(0, 5), st.sampled_from("abcd")), min_size=1, max_size=40))
    queries = draw(st.lists(st.tuples(vector, st.sampled_from("abcdz")), min_size=1, max_size=4))
    entries = [Entry(label, "image", str(n), digest) for n, (_, label, digest) in enumerate(rows)]
    memory = Memory.build(unit([row[0] for row in rows]), entries, "encoder")
    return memory, unit([q[0] for q in queries]), [q[1] for q in queries]


def best_by_class(memory: Memory, query: np.ndarray, excluded: str | None) -> dict[int, float]:
    scores = memory.vectors(range(len(memory.entries))) @ query
    best: dict[int, float] = {}
    for entry, score in zip(memory.entries, scores, strict=True):
        if entry.digest != excluded:
            best[entry.label] = max(best.get(entry.label, -2), float(score))
    return best


@given(searches(), st.integers(1, 7), st.integers(1, 6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_k_distinct_classes_equal_brute_force(search, k, initial_fetch, exclude):
    memory, xq, digests = search
    results = by_query(nearest_classes(memory, xq, k, SearchOptions(initial_fetch, digests if exclude else None)))
    for row, scores in enumerate(results):
        best = best_by_class(memory, xq[row], digests[row] if exclude else None)
        # Where classes tie for the last rank either may be returned; the scores are equal then.
        assert list(scores.values()) == pytest.approx(sorted(best.values(), reverse=True)[:k], abs=1e-5)
        assert scores == pytest.approx({label: best[label] for label in scores}, abs=1e-5)


def test_a_small_initial_fetch_is_widened_past_a_crowded_class():
    """A hundred entries of one class are nearer than the only entry of the other."""
    vectors = unit([[1, 0.001 * n] for n in range(100)] + [[0, 1]])
    entries = [Entry(0, "image", str(n)) for n in range(100)] + [Entry(1, "image", "far")]
    results = by_query(nearest_classes(Memory.build(vectors, entries, "encoder"), unit([[1, 0]]), 2, SearchOptions(4)))
    assert list(results[0]) == [0, 1]


def test_an_empty_digest_excludes_no_names():
    memory = Memory.build(np.eye(2, dtype=np.float32), [Entry(n, "name", str(n)) for n in range(2)], "encoder")
    assert nearest_classes(memory, unit([[1, 0]]), 2, SearchOptions(8, exclude=[""]))[1].tolist() == [[0, 1]]


def test_an_empty_memory_returns_no_candidates():
    empty = Memory.build(np.empty((0, 2), np.float32), [], "encoder")
    assert by_query(nearest_classes(empty, unit([[1, 0], [0, 1]]), 3, SearchOptions(8))) == [{}, {}]


def standardised(scores: dict[int, float]) -> dict[int, float]:
    values = np.array(list(scores.values()) or [0.0])
    scale = values.std() if values.std() > 1e-6 else 1  # smaller differences are rounding
    return {label: (score - values.mean()) / scale for label, score in scores.items()}


def test_scores_that_differ_only_by_rounding_are_treated_as_equal():
    images = Memory.build(unit([[1, 1, 0]] * 3), [Entry(n, "image", str(n)) for n in range(3)], "encoder")
    names = Memory.build(unit([[1, 1, 1], [1, 1, 1.000001], [1, 1, 0.999999]]), images.entries, "encoder")
    (scores,) = by_query(fused_classes(images, names, unit([[1, 2, 3]]), 3, 0.5, SearchOptions(64)))
    assert list(scores.values()) == pytest.approx([0, 0, 0], abs=1e-3)


@pytest.fixture(scope="module")
def two_memories():
    rng = np.random.default_rng(0)
    images = Memory.build(
        unit(rng.standard_normal((30, 6))), [Entry(n % 10, "image", str(n), f"d{n}") for n in range(30)], "encoder"
    )
    names = Memory.build(unit(rng.standard_normal((10, 6))), [Entry(n, "name", str(n)) for n in range(10)], "encoder")
    return images, names, unit(rng.standard_normal((5, 6)))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("exclude_queries", [False, True])
def test_fused_scores_mix_standardised_similarities(two_memories, weight, exclude_queries):
    images, names, xq = two_memories
    exclude = [f"d{n}" for n in range(5)] if exclude_queries else None
    results = by_query(fused_classes(images, names, xq, 4, weight, SearchOptions(64, exclude)))
    for row, scores in enumerate(results):
        by_image = standardised(best_by_class(images, xq[row], exclude and exclude[row]))
        by_name = standardised(best_by_class(names, xq[row], None))
        mixed = {label: (1 - weight) * by_image[label] + weight * by_name[label] for label in by_name}
        assert list(scores) == sorted(mixed, key=lambda label: -mixed[label])[:4]
        assert scores == pytest.approx({label: mixed[label] for label in scores}, abs=1e-4)


def test_a_class_that_the_initial_fetch_missed_gets_its_true_similarity(two_memories):
    """With an initial fetch of one, a class found only by name still gets its real image score, not the lowest."""
    images, names, xq = two_memories
    wide = by_query(fused_classes(images, names, xq, 3, 0.0, SearchOptions(64)))
    narrow = by_query(fused_classes(images, names, xq, 3, 0.0, SearchOptions(1)))
    assert [list(scores)[:1] for scores in narrow] == [list(scores)[:1] for scores in wide]
    for row, scores in enumerate(narrow):
        best = best_by_class(images, xq[row], None)
        assert list(scores) == sorted(scores, key=lambda label: -best[label])


def test_a_class_whose_only_image_is_the_query_is_ranked_by_its_name():
    images = Memory.build(
        np.eye(3, dtype=np.float32), [Entry(n, "image", str(n), f"d{n}") for n in range(3)], "encoder"
    )
    names = Memory.build(np.eye(3, dtype=np.float32), [Entry(n, "name", str(n)) for n in range(3)], "encoder")
    query = unit([[1, 0.2, 0.1]])
    options = SearchOptions(8, ["d0"])
    assert fused_classes(images, names, query, 3, 1.0, options)[1].tolist() == [[0, 1, 2]]
    assert fused_classes(images, names, query, 3, 0.0, options)[1][0, 0] == 1


def test_candidates_carry_label_name_and_score_in_order():
    scores, labels = np.array([[0.75, 0.5], [0.25, -np.inf]]), np.array([[2, 0], [1, -1]])
    rows = [(Candidate(2, "c", 0.75), Candidate(0, "a", 0.5)), (Candidate(1, "b", 0.25),)]
    assert to_candidates(scores, labels, ["a", "b", "c"]) == rows


def by_class(memory: Memory, query: np.ndarray, excluded: str | None, aggregate: str, m: int) -> dict[int, float]:
    """Returns reference scores: every entry, class by class."""
    vectors_by_class: dict[int, list] = {}
    for entry, vector in zip(memory.entries, memory.vectors(memory.ids), strict=True):
        if excluded is None or entry.digest != excluded:
            vectors_by_class.setdefault(entry.label, []).append(vector.astype(np.float64))
    scores = {}
    for label, vectors in vectors_by_class.items():
        similarities = sorted((float(v @ query) for v in vectors), reverse=True)
        mean = np.mean(vectors, axis=0)
        scores[label] = {
            "max": similarities[0],
            "mean": float(np.mean(similarities[:m])),
            "prototype": float(mean @ query) / max(float(np.linalg.norm(mean)), 1e-12),
        }[aggregate]
    return scores


@given(searches(), st.sampled_from(["max", "mean", "prototype"]), st.integers(1, 4), st.integers(1, 6), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_aggregation_equals_brute_force(search, aggregate, m, k, exclude):
    memory, xq, digests = search
    results = by_query(nearest_classes(memory, xq, k, SearchOptions(2, digests if exclude else None, aggregate, m)))
    for row, scores in enumerate(results):
        expected = by_class(memory, xq[row], digests[row] if exclude else None, aggregate, m)
        assert list(scores.values()) == pytest.approx(sorted(expected.values(), reverse=True)[:k], abs=1e-5)
        assert scores == pytest.approx({label: expected[label] for label in scores}, abs=1e-5)


@given(searches(), st.integers(1, 9), st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_nearest_entries_equal_brute_force(search, k, exclude):
    memory, xq, digests = search
    scores, labels = nearest_entries(memory, xq, k, SearchOptions(2, digests if exclude else None))
    assert np.array_equal(labels < 0, np.isneginf(scores))
    for row, found in enumerate(scores):
        included = [i for i, e in enumerate(memory.entries) if not (exclude and e.digest == digests[row])]
        expected = np.sort(memory.vectors(included) @ xq[row])[::-1][:k] if included else []
        assert found[: len(expected)] == pytest.approx(expected, abs=1e-5)
        assert np.isneginf(found[len(expected) :]).all()


@given(searches(), st.sampled_from(["max", "mean", "prototype"]), st.sampled_from([0.0, 0.4, 1.0]), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_fused_scores_of_every_aggregation_equal_brute_force(search, aggregate, weight, m):
    images, xq, _ = search
    names = Memory.build(unit(np.eye(3)), [Entry(n, "name", str(n)) for n in range(3)], "encoder")
    results = by_query(fused_classes(images, names, xq, 9, weight, SearchOptions(64, None, aggregate, m)))
    for row, scores in enumerate(results):
        by_image = standardised(by_class(images, xq[row], None, aggregate, m))
        by_name = standardised({n: float(xq[row][n]) for n in range(3)})
        lowest = min(by_image.values()), min(by_name.values())
        mixed = {
            label: (1 - weight) * by_image.get(label, lowest[0]) + weight * by_name.get(label, lowest[1])
            for label in by_image.keys() | by_name.keys()
        }
        assert scores == pytest.approx(mixed, abs=1e-3)


def test_candidates_are_distinct_classes_or_the_classes_of_the_nearest_images():
    vectors = unit([[1, 0], [1, 0.1], [1, 0.2], [0, 1]])
    memory = Memory.build(vectors, [Entry(n, "image", str(i)) for i, n in enumerate([0, 0, 1, 2])], "encoder")
    memories, xq = Memories(memory, None), unit([[1, 0]])
    distinct = memories.candidates("image", xq, 3, RetrieverArgs(), "abc")[0]
    assert [candidate.name for candidate in distinct] == ["a", "b", "c"]
    by_entry = memories.candidates("image", xq, 3, RetrieverArgs(candidate_unit="image"), "abc")[0]
    assert [candidate.name for candidate in by_entry] == ["a", "a", "b"]


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_results_with_one_class_or_none_are_valid(aggregate):
    one = Memory.build(unit([[1, 0], [0, 1]]), [Entry(4, "image", str(n), "d") for n in range(2)], "encoder")
    options, query = SearchOptions(8, None, aggregate, 2), unit([[1, 0]])
    assert nearest_classes(one, query, 2, options)[1].tolist() == [[4, -1]]
    assert by_query(nearest_classes(one, query, 5, SearchOptions(8, ["d"], aggregate, 2))) == [{}]
    empty = Memory.build(np.empty((0, 2), np.float32), [], "encoder")
    assert by_query(nearest_classes(empty, query, 5, options)) == [{}]
    assert by_query(fused_classes(empty, one, query, 5, 0.5, options))[0].keys() == {4}
    assert np.isnan(class_scores(empty, query, np.array([[4, -1]]), options)).all()


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_approximate_indexes_give_k_distinct_classes_of_true_similarity(kind):
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((500, 8)))
    entries = [Entry(n % 50, "image", str(n), f"d{n}") for n in range(500)]
    memory = Memory.build(vectors, entries, "encoder", RetrieverArgs(index=kind))
    results = by_query(nearest_classes(memory, vectors[:20], 5, SearchOptions(8, [f"d{n}" for n in range(20)])))
    for row, scores in enumerate(results):
        best = best_by_class(memory, vectors[row], f"d{row}")
        assert len(scores) == 5
        assert all(score <= best[label] + 1e-5 for label, score in scores.items())


@st.composite
def uneven_memories(draw):
    """Generates memories of images and names without ties, with classes of very different sizes, and queries."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["flat", "flat", "hnsw"]))  # small searches of a graph are exact
    sizes = draw(st.lists(st.integers(0, 12), min_size=2, max_size=12))
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    digests = rng.integers(0, 9, len(labels))
    images = [Entry(int(n), "image", str(i), f"d{d}") for i, (n, d) in enumerate(zip(labels, digests, strict=True))]
    names = [Entry(int(n), "name", str(i)) for i, n in enumerate(rng.integers(0, len(sizes), len(sizes)))]
    args = RetrieverArgs(index=kind)
    memories = [Memory.build(unit(rng.standard_normal((len(e), 7))), e, "encoder", args) for e in (images, names)]
    queries = draw(st.integers(0, 4))
    return *memories, unit(rng.standard_normal((queries, 7))), [f"d{d}" for d in rng.integers(0, 11, queries)]


def reference_fused(images: dict[int, float], names: dict[int, float], most: int, weight: float) -> dict[int, float]:
    """Fuses a query's scores class by class: those among the best by image or by name, standardised and mixed."""
    union = {label for scores in (images, names) for label in sorted(scores, key=lambda label: -scores[label])[:most]}
    parts = [standardised({label: scores[label] for label in union if label in scores}) for scores in (images, names)]
    lowest = [min(part.values(), default=0.0) for part in parts]
    mixed = [{label: part.get(label, low) for label in union} for part, low in zip(parts, lowest, strict=True)]
    return {label: (1 - weight) * mixed[0][label] + weight * mixed[1][label] for label in union}


@given(uneven_memories(), st.sampled_from(AGGREGATES), st.integers(1, 4), st.integers(1, 14), st.booleans())
@settings(max_examples=150, deadline=None)
def test_classes_that_only_one_memory_proposes_are_completed_from_the_other(searched, aggregate, m, k, exclude):
    """Small fetches and few candidates, where image and name propose different classes."""
    images, names, xq, digests = searched
    options = SearchOptions(2, digests if exclude else None, aggregate, m)
    results = by_query(fused_classes(images, names, xq, k, 0.4, options))
    for query, digest, scores in zip(xq, digests, results, strict=True):
        by_image = by_class(images, query, digest if exclude else None, aggregate, m)
        expected = reference_fused(by_image, by_class(names, query, None, "max", 1), max(2, k), 0.4)
        assert list(scores) == sorted(expected, key=lambda label: -expected[label])[:k]
        assert scores == pytest.approx({label: expected[label] for label in scores}, abs=1e-3)


@given(uneven_memories(), st.sampled_from(AGGREGATES), st.integers(1, 4), st.integers(1, 30), st.booleans())
@settings(max_examples=100, deadline=None)
def test_given_classes_are_scored_or_nan(searched, aggregate, m, width, exclude):
    """The few labels of a narrow request are scored from their vectors, those of a wide one by a product with all."""
    images, _, xq, digests = searched
    labels = np.random.default_rng(width).integers(-1, 14, (len(xq), width))
    scores = class_scores(images, xq, labels, SearchOptions(1, digests if exclude else None, aggregate, m))
    for query, digest, row, row_labels in zip(xq, digests, scores, labels, strict=True):
        expected = by_class(images, query, digest if exclude else None, aggregate, m)
        assert row == pytest.approx([expected.get(label, np.nan) for label in row_labels], abs=1e-5, nan_ok=True)


def test_a_search_is_the_same_whatever_its_blocks(monkeypatch, two_memories):
    images, names, _ = two_memories
    xq = unit(np.random.default_rng(1).standard_normal((50, 6)))
    options = SearchOptions(4, [f"d{n % 30}" for n in range(50)])
    whole = fused_classes(images, names, xq, 4, 0.5, options)
    monkeypatch.setattr("data_prep.memory.dense._MOST_QUERIES", {"cpu": 16})
    monkeypatch.setattr("data_prep.memory.dense._CHUNK", {"cpu": 5})
    scores, labels = fused_classes(images, names, xq, 4, 0.5, options)
    assert np.array_equal(labels, whole[1]) and scores == pytest.approx(whole[0], abs=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_gpu_finds_what_the_cpu_finds(monkeypatch, aggregate):
    rng = np.random.default_rng(0)
    entries = [Entry(int(label), "image", str(n), f"d{n}") for n, label in enumerate(rng.integers(0, 90, 2000))]
    images = Memory.build(unit(rng.standard_normal((2000, 32))), entries, "encoder")
    names = Memory.build(unit(rng.standard_normal((90, 32))), [Entry(n, "name", str(n)) for n in range(90)], "encoder")
    xq, options = unit(rng.standard_normal((500, 32))), SearchOptions(64, [f"d{n}" for n in range(500)], aggregate, 3)
    on_cpu = fused_classes(images, names, xq, 20, 0.5, options), images.search(xq, 30)
    monkeypatch.setattr("data_prep.memory.exact._GPU_WORK", 0)
    on_gpu = fused_classes(images, names, xq, 20, 0.5, options), images.search(xq, 30)
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert found[0] == pytest.approx(expected[0], abs=1e-3)
        assert (found[1] == expected[1]).mean() > 0.999  # near-ties
