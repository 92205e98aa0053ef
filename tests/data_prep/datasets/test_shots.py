"""Shots equal CoOp's sampling, image for image."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.files import read_sealed
from data_prep.core.records import Sample
from data_prep.datasets.shots import draw_shots, first_shots, load_shots


def coop_shots(samples: list[Sample], shots: int, seed: int) -> list[Sample]:
    """Samples as Dassl's ``generate_fewshot_dataset`` without repeats, after CoOp's ``set_random_seed``."""
    random.seed(seed)
    tracker: dict[int, list[Sample]] = {}
    for sample in samples:
        tracker.setdefault(sample.label, []).append(sample)
    selected = []
    for items in tracker.values():
        selected.extend(random.sample(items, shots) if len(items) >= shots else items)
    return selected


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 8), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_shots_equal_coops(labels, shots, seed):
    samples = [Sample(f"k{i}", f"{i}.png", label, f"{i:064x}") for i, label in enumerate(labels)]
    assert draw_shots(samples, shots, seed) == coop_shots(samples, shots, seed)


def test_sampling_does_not_touch_the_global_generator():
    samples = [Sample(f"k{i}", f"{i}.png", i % 3, "") for i in range(30)]
    random.seed(7)
    expected = random.random()
    random.seed(7)
    draw_shots(samples, 4, 1)
    assert random.random() == expected


def make_samples(count: int) -> list[Sample]:
    return [Sample(f"k{i}", f"{i}.png", i % 3, "") for i in range(count)]


def test_first_shots_equal_those_of_the_released_code():
    assert [s.key for s in first_shots(make_samples(12), 2)] == ["k0", "k3", "k1", "k4", "k2", "k5"]
    assert [s.key for s in first_shots(make_samples(4), 2)] == ["k0", "k3", "k1", "k2"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shots_are_stored_as_keys_and_read_again(tmp_path, seed):
    shots = load_shots(make_samples(30), 4, seed, "coop", tmp_path)
    assert shots == draw_shots(make_samples(30), 4, seed)
    (stored,) = tmp_path.glob(f"split_fewshot-*/shot_4-seed_{seed}.json")
    assert read_sealed(stored) == [s.key for s in shots]
    intact, first = stored.read_text(), f'"{shots[0].key}"'
    for damaged in (intact.replace(f"  {first},\n", ""), intact.replace(first, '"k99"')):
        assert damaged != intact
        stored.write_text(damaged)
        with pytest.raises(UserError, match=r"damaged \(its checksum differs\); delete it to have it made again"):
            load_shots(make_samples(30), 4, seed, "coop", tmp_path)
    # A list without checksum is used as it is.
    stored.write_text(json.dumps(["k29", "k0"]))
    assert [s.key for s in load_shots(make_samples(30), 4, seed, "coop", tmp_path)] == ["k29", "k0"]
    stored.write_text(json.dumps(["k30"]))
    with pytest.raises(UserError, match="k30 is not in the training split"):
        load_shots(make_samples(30), 4, seed, "coop", tmp_path)
    for damaged, message in (
        ('["k0", "k0"]', "lists an image twice; correct it, or delete it"),
        ("[0]", "a list of keys; correct it, or delete it"),
        ('{"k0": 1}', "damaged .*; delete it to have it made again"),
        ("[", "as JSON .*; delete it to have it made again"),
    ):
        stored.write_text(damaged)
        with pytest.raises(UserError, match=message):
            load_shots(make_samples(30), 4, seed, "coop", tmp_path)


def test_shots_of_other_splits_or_methods_are_stored_separately(tmp_path):
    for count, draw in ((30, "coop"), (27, "coop"), (30, "first_n")):
        load_shots(make_samples(count), 2, 1, draw, tmp_path)
    assert len(list(tmp_path.glob("split_fewshot-*/*.json"))) == 3
    assert load_shots(make_samples(30), 2, 1, "first_n", tmp_path) == first_shots(make_samples(30), 2)
