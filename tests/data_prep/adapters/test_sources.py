"""Adapters as sources of candidates: rankings and scores agree, and no query finds itself."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.adapters import fits, sources
from data_prep.adapters.fits import fit_model
from data_prep.adapters.hyperparameters import FIELDS, Hyperparameters
from data_prep.adapters.sources import FOLDS, AdapterSource, fold_rows, usable_adapters, with_adapters
from data_prep.adapters.support import make_support
from data_prep.core.errors import UserError
from data_prep.embedding.pair import PairedQueries
from data_prep.memory.memories import Memories
from data_prep.memory.memory import Entry, Memory
from data_prep.settings import ADAPTERS, RetrieverArgs

CPU = torch.device("cpu")


def source(name: str, cache, **settings) -> AdapterSource:
    return AdapterSource(name, Hyperparameters(**settings), cache)


def all_logits(name: str, support, xq, cache) -> np.ndarray:
    """The logits of every class by one fit, shape ``[nq, c]``."""
    queries = torch.from_numpy(xq)
    return fit_model(name, support, Hyperparameters(), cache, "cpu", CPU).logits(queries, queries).T.numpy()


def test_every_adapter_has_hyperparameters():
    assert set(FIELDS) == set(ADAPTERS)
    for name in ADAPTERS:
        values = Hyperparameters(0.5, 2.0, 3, 0.1).of(name)
        assert Hyperparameters.from_dict(values).of(name) == values


@pytest.mark.parametrize("name", ADAPTERS)
def test_candidates_are_the_classes_with_the_highest_logits(memories, support, xq, tmp_path, name):
    chosen = {name: Hyperparameters().of(name)}
    adapted, args = with_adapters(memories, chosen, tmp_path), RetrieverArgs()
    scores, labels = adapted.search(name, xq, 4, args)
    logits = all_logits(name, support, xq, tmp_path)
    expected = np.argsort(-logits, axis=1)[:, :4]
    np.testing.assert_array_equal(labels, support.labels[expected])
    np.testing.assert_allclose(scores, np.take_along_axis(logits, expected, 1), rtol=1e-5, atol=1e-5)
    wanted = np.where(np.arange(4) < 3, labels, -1)
    again = adapted.scores(name, xq, wanted, args)
    np.testing.assert_allclose(again[:, :3], scores[:, :3], rtol=1e-6)
    assert np.isnan(again[:, 3]).all()
    assert (adapted.search(name, xq, 9, args)[1][:, 6:] == -1).all()  # there are six classes


@pytest.mark.parametrize("name", ADAPTERS)
def test_blocks_of_queries_do_not_change_the_scores(memories, support, xq, tmp_path, name, monkeypatch):
    digests = [support.digests[row % len(support)] for row in range(len(xq))]
    whole = source(name, tmp_path).search(memories, xq, 6, digests)
    monkeypatch.setattr(sources, "block_size", lambda *_: 7)
    in_blocks = source(name, tmp_path).search(memories, xq, 6, digests)
    np.testing.assert_allclose(in_blocks[0], whole[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(in_blocks[1], whole[1])


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_image_that_is_excluded_has_no_part_in_its_own_scores(memories, support, tmp_path, name):
    """Its label in the memory is changed to another class: what it is told of itself must not change."""
    search, folds = source(name, tmp_path), dict(zip(support.digests, fold_rows(support).tolist(), strict=True))
    for row in (0, 7, 23):
        digest = support.digests[row]
        position = memories.images.rows_by_digest[digest][0]
        entries = list(memories.images.entries)
        wrong = next(label for label in support.labels.tolist() if label != entries[position].label)
        entries[position] = replace(entries[position], label=wrong)
        vectors = memories.images.vectors(memories.images.ids)
        changed = Memories(Memory.build(vectors, entries, "encoder"), memories.names)
        query = support.xb[[row]]
        with pytest.MonkeyPatch.context() as patch:  # the folds are given, as they depend on the labels
            patch.setattr(sources, "fold_rows", lambda of: np.array([folds[digest] for digest in of.digests]))
            hidden = [search.scores(of, query, support.labels[None], [digest]) for of in (memories, changed)]
            seen = [search.scores(of, query, support.labels[None]) for of in (memories, changed)]
        assert np.abs(seen[0] - seen[1]).max() > 1e-3  # without exclusion, it would
        if name == "tip":  # the scale of the similarities to names is fitted to all images
            scales = [make_support(of).scale for of in (memories, changed)]
            hidden = [scores - scale * (query @ support.names.T) for scores, scale in zip(hidden, scales, strict=True)]
        np.testing.assert_allclose(hidden[0], hidden[1], atol=1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
def test_labels_that_say_nothing_are_predicted_by_chance(tmp_path, name):
    """A fit to an image predicts its random label far more often than that."""
    search, own, without = source(name, tmp_path, strength=1e-3), [], []
    for seed in range(4):
        vectors = np.random.default_rng(seed).normal(size=(205, 64)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        entries = [Entry(row % 5, "image", f"{row}", f"digest{row}") for row in range(200)]
        names = Memory.build(vectors[200:], [Entry(label, "name", f"{label}") for label in range(5)], "encoder")
        memories = Memories(Memory.build(vectors[:200], entries, "encoder"), names)
        support = make_support(memories)
        for hits, exclude in ((own, None), (without, support.digests)):
            labels = search.search(memories, support.xb, 1, exclude)[1][:, 0]
            hits.append((labels == support.classes).mean())
    assert np.mean(own) > 0.6 and np.mean(without) == pytest.approx(0.2, abs=0.06)


def test_folds_are_even_class_by_class_and_keep_copies_together(make_memories):
    memories = make_memories(classes=4, shots=11)
    digests = {e.digest: f"group{int(e.digest.removeprefix('digest')) // 3}" for e in memories.images.entries}
    support = make_support(memories)
    folds = fold_rows(support)
    counts = np.array([np.bincount(folds[support.classes == c], minlength=FOLDS) for c in range(4)])
    assert counts.max() - counts.min() <= 1
    grouped = make_support(replace(memories, images=memories.images.with_digests(digests)))
    of_group: dict[str, set[int]] = {}
    for digest, fold in zip(grouped.digests, fold_rows(grouped).tolist(), strict=True):
        of_group.setdefault(digest, set()).add(fold)
    assert all(len(folds) == 1 for folds in of_group.values()) and len(of_group) < len(grouped)


@pytest.mark.parametrize("name", ["tip_f", "linear_probe"])
def test_fits_are_kept_by_content_whatever_the_order_of_the_memory(memories, tmp_path, name, caplog, xq):
    first = source(name, tmp_path).search(memories, xq, 3)
    order = np.random.default_rng(3).permutation(len(memories.images))
    vectors = memories.images.vectors(memories.images.ids)[order]
    shuffled = Memory.build(vectors, [memories.images.entries[i] for i in order], "encoder")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again = source(name, tmp_path).search(Memories(shuffled, memories.names), xq, 3)
    assert "fitting" not in caplog.text
    np.testing.assert_array_equal(first[1], again[1])
    (folder,) = tmp_path.glob(f"adapter-{name}-*")
    (folder / "weights.safetensors").write_bytes(b"damaged")
    same = {entry.digest: entry.digest for entry in shuffled.entries}  # an equal memory that keeps no fit yet
    with pytest.raises(UserError, match=f"delete .*{folder.name} to have it fitted again"):
        source(name, tmp_path).search(Memories(shuffled.with_digests(same), memories.names), xq, 3)


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_is_fitted_again_when_the_memory_changes(memories, tmp_path, name, xq):
    search = source(name, tmp_path)
    assert 99 not in search.search(memories, xq, 6)[1]
    memories.images.add(xq[:3], [Entry(99, "image", f"new{i}", f"new{i}") for i in range(3)])
    memories.names.add(xq[:1], [Entry(99, "name", "new class")])
    assert search.search(memories, xq[:1], 1)[1] == 99
    memories.images.remove(memories.images.ids_of(99))
    memories.names.remove(memories.names.ids_of(99))
    assert 99 not in search.search(memories, xq, 6)[1]


def test_without_names_only_the_linear_probe_is_left_and_that_is_said(make_memories, tmp_path, caplog, xq):
    memories = make_memories(named=False)
    assert usable_adapters(ADAPTERS, memories) == ["linear_probe"]
    assert "left out: tip, as the encoder embeds images alone" in caplog.text
    labels = source("linear_probe", tmp_path).search(memories, make_support(memories).xb, 1)[1][:, 0]
    assert (labels == make_support(memories).labels[make_support(memories).classes]).mean() > 0.9
    with pytest.raises(UserError, match="candidates from tip: the encoder embeds images alone"):
        source("tip", tmp_path).search(memories, xq, 1)
    assert usable_adapters(ADAPTERS, Memories(None, make_memories().names)) == []


def test_a_pair_of_encoders_has_tip_of_both_sides_and_a_probe_of_images(make_memories, tmp_path, caplog):
    memories, rng = make_memories(), np.random.default_rng(5)
    names = rng.normal(size=(6, 8)).astype(np.float32)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    named = Memories(memories.images, Memory.build(names, list(memories.names.entries), "another encoder"))
    assert usable_adapters(ADAPTERS, named) == ["tip", "linear_probe"]
    assert "left out: tip_f, as one encoder embeds images and another names" in caplog.text
    support, by_name = make_support(named), names[[0, 3]]
    queries = PairedQueries(support.xb[:2], by_name)
    scores = source("tip", tmp_path).scores(named, queries, np.tile(support.labels, (2, 1)))
    affinities = np.exp(-5.5 * (1 - queries.images @ support.xb.T)) @ np.eye(6)[support.classes]
    np.testing.assert_allclose(scores, affinities + 100 * by_name @ names.T, rtol=1e-4, atol=1e-4)
    probed = source("linear_probe", tmp_path).search(named, queries, 1)[1]
    np.testing.assert_array_equal(probed[:, 0], support.labels[support.classes[:2]])


def test_what_would_take_too_long_is_left_out_with_a_reason(memories, caplog, monkeypatch):
    monkeypatch.setattr(fits, "_MOST_WORK", {"cpu": 10**4, "cuda": 10**4})
    assert usable_adapters(ADAPTERS, memories) == ["tip"]
    assert "left out: linear_probe, as a fit to 24 images of 6 classes would take" in caplog.text
    monkeypatch.setattr(fits, "_MOST_VALUES", 100)
    assert usable_adapters(ADAPTERS, memories) == []


def test_a_class_without_images_or_name_is_no_candidate(make_memories, tmp_path):
    memories = make_memories(named=False, shots=1)
    support = make_support(memories)
    scores, labels = source("linear_probe", tmp_path).search(memories, support.xb, 6, support.digests)
    for row, truth in enumerate(support.labels[support.classes].tolist()):  # its only image is hidden
        assert truth not in labels[row] and (labels[row] == -1).any() and np.isneginf(scores[row, -1])
