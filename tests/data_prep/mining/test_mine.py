"""Mining excludes each query and its copies, applies the ground-truth policies, and reuses cached results."""

from dataclasses import replace
from pathlib import Path

import pytest
import webdataset as wds
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.distributed import blockwise
from data_prep.distributed.blockwise import block_rows
from data_prep.embedding.encoder import embed_images
from data_prep.leakage.contamination import read_mined
from data_prep.memory.memories import Memories, image_memory, name_memory
from data_prep.mining.mine import CandidatePool, mine
from data_prep.mining.shards import ShardedExamples
from data_prep.prompting.targets import target_names
from data_prep.settings import MiningArgs, RetrieverArgs

RETRIEVER = RetrieverArgs()
NAMES = ("a cat", "a dog", "a cow", "a hen")


@pytest.fixture
def dataset(tmp_path, draw_picture):
    """Four classes of three images; one of the dogs is a copy of the first cat under another name."""
    samples = []
    for label in range(4):
        for number in range(3):
            path = draw_picture(tmp_path / "images" / f"{label}-{number}.png", 10 * label + number)
            if (label, number) == (1, 0):
                path.write_bytes((tmp_path / "images" / "0-0.png").read_bytes())
            samples.append(Sample(f"class{label}-picture{number}", str(path), label, file_hash(path)))
    return Dataset("pets", NAMES, {"train": samples})


@pytest.fixture
def mined(encoder, dataset, tmp_path):
    """Returns a function that mines the dataset against itself and returns the folder."""
    cache = tmp_path / "cache"

    def run(leave_out=True, retriever=RETRIEVER, processes=1, **settings):
        samples = dataset.parts["train"]
        memories = Memories(
            image_memory(encoder, samples, retriever, cache),
            name_memory(encoder, range(len(dataset.names)), dataset.names, retriever, cache),
        )
        args = MiningArgs(**settings)
        return mine(encoder, dataset, "train", CandidatePool(memories, leave_out), retriever, args, cache, processes)

    return run


def by_key(folder: Path) -> dict:
    examples = ShardedExamples(folder)
    return {example.key: example for example, _ in (examples[n] for n in range(len(examples)))}


def similarities(encoder, dataset, tmp_path):
    vectors = embed_images(encoder, dataset.parts["train"], RETRIEVER, tmp_path / "other-cache")
    return vectors @ vectors.T


def test_a_query_never_retrieves_its_own_bytes_under_any_class(encoder, dataset, mined, tmp_path):
    found = by_key(mined(k=4, sources=["image"], ground_truth="insert"))
    cosines = similarities(encoder, dataset, tmp_path)
    cat = {c.label: c.score for c in found["class0-picture0-image"].candidates}
    # Samples 0 and 3 are the same image: the cat is scored by cats 1 and 2, the dog by dogs 4 and 5.
    assert cat == pytest.approx({n: max(cosines[0, 3 * n + (n < 2) : 3 * n + 3]) for n in range(4)}, abs=1e-5)
    assert max(c.score for example in found.values() for c in example.candidates) < 0.9999


def test_without_exclusion_a_copy_is_retrieved(mined):
    found = by_key(mined(leave_out=False, k=4, sources=["image"]))
    scores = {c.label: c.score for c in found["class0-picture0-image"].candidates}
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores[1] == pytest.approx(1, abs=1e-5)


def test_fused_candidates_exclude_the_query_too(encoder, dataset, mined):
    with_copies = by_key(mined(leave_out=False, k=4, sources=["fused"], retriever=replace(RETRIEVER, text_weight=0.0)))
    without = by_key(mined(k=4, sources=["fused"], retriever=replace(RETRIEVER, text_weight=0.0)))
    key = "class0-picture0-fused"
    assert {c.label for c in with_copies[key].candidates[:2]} == {0, 1}
    images_only = by_key(mined(k=4, sources=["image"]))["class0-picture0-image"].candidates
    assert [c.label for c in without[key].candidates] == [c.label for c in images_only]


def test_only_if_retrieved_keeps_examples_with_their_truth_and_counts_the_rest(mined):
    folder = mined(k=2)
    found, counts = by_key(folder), ShardedExamples(folder).manifest["counts"]
    assert all(example.truth is not None for example in found.values())
    assert set(counts) == {"truth retrieved", "dropped: truth not retrieved"}
    assert counts["truth retrieved"] == len(found)
    assert sum(counts.values()) == 12 * 2


def test_insert_keeps_every_example_and_puts_a_missed_truth_last(mined):
    retrieved, found = by_key(mined(k=2)), by_key(mined(k=2, ground_truth="insert"))
    assert len(found) == 12 * 2
    assert len(retrieved) < len(found)
    for key, example in found.items():
        assert len({c.label for c in example.candidates}) == 2
        assert [c.name for c in example.candidates] == [NAMES[c.label] for c in example.candidates]
        scores = [c.score for c in example.candidates]
        assert scores == sorted(scores, reverse=True)
        if key in retrieved:
            assert example == retrieved[key]
        else:
            assert example.truth == 1


@pytest.mark.parametrize("unit", ["class", "image"])
def test_mining_and_evaluation_each_have_a_candidate_unit(mined, unit):
    """``retriever.candidate_unit`` is for evaluation: examples depend only on ``mining.candidate_unit``."""
    other = {"class": "image", "image": "class"}[unit]
    found = [
        mined(k=4, candidate_unit=unit, retriever=replace(RETRIEVER, candidate_unit=retriever_unit))
        for retriever_unit in (other, unit)
    ]
    assert found[0] == found[1]
    distinct = [len({c.label for c in example.candidates}) == 4 for example in by_key(found[0]).values()]
    assert all(distinct) == (unit == "class")


def test_there_is_an_example_per_image_and_source(mined):
    assert {key.rsplit("-", 1)[1] for key in by_key(mined(k=4))} == {"image", "name"}
    assert len(by_key(mined(k=4, sources=["name"]))) == 12


def test_examples_store_the_bytes_of_their_images(dataset, mined):
    folder = mined(k=4, shard_size=5)
    rows = list(wds.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False))
    paths = {sample.key: Path(sample.path) for sample in dataset.parts["train"]}
    assert len(rows) == 24
    assert len(list(folder.glob("*.tar"))) == 5
    assert all(row["png"] == paths[row["__key__"].rsplit("-", 1)[0]].read_bytes() for row in rows)


def test_a_mined_result_is_reused(dataset, mined):
    first = mined(k=4)
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}
    for sample in dataset.parts["train"]:
        Path(sample.path).unlink()
    again = mined(k=4)
    assert again == first
    assert {path.name: path.stat().st_mtime_ns for path in again.iterdir()} == before


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 3},
        {"sources": ["image"]},
        {"ground_truth": "insert"},
        {"shard_size": 5},
        {"leave_out": False},
        {"none_of_these": True},
        {"images": "paths"},
        {"near_duplicate_threshold": 0.999},
        {"retriever": replace(RETRIEVER, text_weight=0.25)},
    ],
)
def test_another_setting_is_mined_again(mined, settings):
    assert mined(**({"k": 4} | settings)) != mined(k=4)


def test_another_template_changes_the_candidates(mined):
    plain = by_key(mined(k=4, sources=["name"]))
    other = by_key(mined(k=4, sources=["name"], retriever=replace(RETRIEVER, templates=["gules, a bend {} or"])))
    assert any(plain[key].candidates != other[key].candidates for key in plain)


def test_a_changed_memory_is_mined_again(encoder, dataset, mined, tmp_path):
    first = mined(k=3)
    fewer = [s for s in dataset.parts["train"] if not s.key.endswith("picture2")]
    cache = tmp_path / "cache"
    memories = Memories(
        image_memory(encoder, fewer, RETRIEVER, cache), name_memory(encoder, range(4), NAMES, RETRIEVER, cache)
    )
    second = mine(encoder, dataset, "train", CandidatePool(memories, True), RETRIEVER, MiningArgs(k=3), cache)
    assert second != first
    assert by_key(second) != by_key(first)


def test_a_reencoded_copy_is_excluded_counted_and_listed(encoder, dataset, mined, tmp_path):
    """A dog's image saved as JPEG under the cats: other bytes, but the same image."""
    copy = tmp_path / "images" / "copy.jpg"
    with Image.open(dataset.parts["train"][4].path) as image:
        image.save(copy, quality=95)
    dataset.parts["train"].append(Sample("copy", str(copy), 0, file_hash(copy)))
    folder = mined(k=4, sources=["image"], ground_truth="insert", near_duplicate_threshold=0.98)
    cosines = similarities(encoder, dataset, tmp_path)
    assert cosines[4, 12] > 0.98, "the encoder no longer sees that these are the same image; use a higher quality"
    listed = (folder / "copies.jsonl").read_text()
    assert '"class1-picture1"' in listed and '"copy"' in listed
    manifest = ShardedExamples(folder).manifest
    assert manifest["copies"] == {"equal": 1, "near": 1, "conflicting_classes": 2}
    found = by_key(folder)
    for key in ("class1-picture1-image", "copy-image"):
        assert max(c.score for c in found[key].candidates) < 0.98
    plain = by_key(mined(k=4, sources=["image"], ground_truth="insert", near_duplicate_threshold=1.1))
    assert max(c.score for c in plain["copy-image"].candidates) > 0.98


@pytest.mark.slow
def test_several_processes_mine_the_same_bytes(mined, monkeypatch, tmp_path):
    monkeypatch.setattr(blockwise, "BLOCK", 3)
    monkeypatch.setattr(blockwise, "_SMALL", 1)
    monkeypatch.setattr(blockwise, "LEAST_BLOCKS", 1)
    by_one = mined(k=3, sources=["image", "fused"])
    expected = {path.name: path.read_bytes() for path in by_one.iterdir()}
    by_one.rename(tmp_path / "by-one")
    by_two = mined(k=3, sources=["image", "fused"], processes=2)
    assert by_two == by_one
    assert {path.name: path.read_bytes() for path in by_two.iterdir()} == expected


def test_blocks_hold_every_query_once_and_none_is_too_small(monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK", 100)
    for queries in (1, 19, 20, 100, 119, 120, 250, 301):
        blocks = block_rows(queries)
        assert [number for block in blocks for number in block] == list(range(queries))
        assert len(blocks) == 1 or min(map(len, blocks)) >= 20


def released_examples(dataset, vectors, names, k=5, retrieved=20):
    """Builds examples like the released generator that method.md describes: each image queries the index it is in."""
    examples = []
    for row, sample in enumerate(dataset.parts["train"]):
        order = sorted(range(len(vectors)), key=lambda n: -(vectors[row] @ vectors[n]))[:retrieved]
        candidates = [names[dataset.parts["train"][n].label] for n in order]
        windows = [candidates[i : i + k] for i in range(retrieved - k + 1)]
        truth = names[sample.label]
        for window in windows:
            if truth in window:
                first = [name for name in window if name == truth]
                examples.append((window, first + [name for name in window if name != truth]))
    return examples


def test_the_papers_construction_is_reproduced(encoder, tmp_path, draw_picture):
    """8 classes of 4 images: windows, order and counts as in the released code."""
    names = tuple(f"aircraft {n}" for n in range(8))
    samples = []
    for n in range(32):
        path = draw_picture(tmp_path / "planes" / f"{n}.png", 500 + n)
        samples.append(Sample(f"plane{n}", str(path), n % 8, file_hash(path)))
    planes = Dataset("planes", names, {"train": samples})
    cache = tmp_path / "cache"
    memories = Memories(
        image_memory(encoder, samples, RETRIEVER, cache), name_memory(encoder, range(8), names, RETRIEVER, cache)
    )
    args = MiningArgs(
        k=5, retrieved=20, construction="windows", candidate_unit="image", sources=["image"], neighbours="self"
    )
    folder = mine(encoder, planes, "train", CandidatePool(memories, False), RETRIEVER, args, cache)
    examples = ShardedExamples(folder)
    pairs = [([c.name for c in e.candidates], target_names(e, "truth_first")) for e in examples.examples()]
    vectors = embed_images(encoder, samples, RETRIEVER, cache)
    assert pairs == released_examples(planes, vectors, names)
    assert sum(examples.manifest["counts"].values()) == 32 * 16
    assert examples.manifest["recall"]["image"]["1"] == 1  # the leak


def test_candidates_hold_the_similarity_of_their_names_to_the_true_name(encoder, dataset, mined, tmp_path):
    memory = name_memory(encoder, range(4), NAMES, RETRIEVER, tmp_path / "cache")
    vectors = memory.vectors(range(4))
    for example in by_key(mined(k=4)).values():
        for candidate in example.candidates:
            expected = vectors[candidate.label] @ vectors[example.label]
            assert candidate.name_similarity == pytest.approx(expected, abs=1e-5)


def test_the_manifest_holds_recall_and_counts_and_the_mined_images_are_listed(dataset, mined):
    folder = mined(k=2)
    manifest = ShardedExamples(folder).manifest
    for source in ("image", "name"):
        examples = [e for key, e in by_key(folder).items() if key.endswith(source)]
        assert manifest["recall"][source]["2"] == pytest.approx(len(examples) / 12, abs=1e-6)
    assert read_mined(folder) == {s.digest for s in dataset.parts["train"]}
    assert manifest["mined"]["images"] == 11  # two are the same image


def test_the_error_when_no_example_is_kept_says_what_to_change(dataset, mined):
    """If all images of each class are the same, excluding a query leaves no image of its class."""
    for label in range(4):
        first, *copies = (n for n, s in enumerate(dataset.parts["train"]) if s.label == label)
        for copy in copies:
            original = dataset.parts["train"][first]
            dataset.parts["train"][copy] = replace(original, key=dataset.parts["train"][copy].key)
    with pytest.raises(UserError, match=r"mining train: no example was kept of 12 images .* raise mining\.k"):
        mined(k=2, sources=["image"])
