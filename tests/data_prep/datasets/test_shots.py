"""Shots are CoOp's draw, image for image."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.core.files import read_sealed
from data_prep.core.records import Sample
from data_prep.datasets.shots import draw_shots, first_shots, load_shots


def coop_draw(samples: list[Sample], shots: int, seed: int) -> list[Sample]:
    """As in Dassl's ``generate_fewshot_dataset`` without repeats, after CoOp's ``set_random_seed``."""
    random.seed(seed)
    tracker: dict[int, list[Sample]] = {}
    for sample in samples:
        tracker.setdefault(sample.label, []).append(sample)
    drawn = []
    for items in tracker.values():
        drawn.extend(random.sample(items, shots) if len(items) >= shots else items)
    return drawn


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 8), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_shots_equal_the_draw_of_coop(labels, shots, seed):
    samples = [Sample(f"k{i}", f"{i}.png", label, f"{i:064x}") for i, label in enumerate(labels)]
    assert draw_shots(samples, shots, seed) == coop_draw(samples, shots, seed)


def test_drawing_leaves_the_global_generator_alone():
    samples = [Sample(f"k{i}", f"{i}.png", i % 3, "") for i in range(30)]
    random.seed(7)
    expected = random.random()
    random.seed(7)
    draw_shots(samples, 4, 1)
    assert random.random() == expected


def made(count: int) -> list[Sample]:
    return [Sample(f"k{i}", f"{i}.png", i % 3, "") for i in range(count)]


def test_the_first_of_each_class_in_parity_with_the_released_code():
    assert [s.key for s in first_shots(made(12), 2)] == ["k0", "k3", "k1", "k4", "k2", "k5"]
    assert [s.key for s in first_shots(made(4), 2)] == ["k0", "k3", "k1", "k2"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_draw_is_kept_as_keys_and_read_again(tmp_path, seed):
    drawn = load_shots(made(30), 4, seed, "coop", tmp_path)
    assert drawn == draw_shots(made(30), 4, seed)
    (kept,) = tmp_path.glob(f"split_fewshot-*/shot_4-seed_{seed}.json")
    assert read_sealed(kept) == [s.key for s in drawn]
    whole, first = kept.read_text(), f'"{drawn[0].key}"'
    for damaged in (whole.replace(f"  {first},\n", ""), whole.replace(first, '"k99"')):
        assert damaged != whole
        kept.write_text(damaged)
        with pytest.raises(UserError, match=r"damaged \(its checksum differs\); delete it to have it made again"):
            load_shots(made(30), 4, seed, "coop", tmp_path)
    # Another's draw for this split is taken as it stands.
    kept.write_text(json.dumps(["k29", "k0"]))
    assert [s.key for s in load_shots(made(30), 4, seed, "coop", tmp_path)] == ["k29", "k0"]
    kept.write_text(json.dumps(["k30"]))
    with pytest.raises(UserError, match="k30 is not in the training split"):
        load_shots(made(30), 4, seed, "coop", tmp_path)
    for damaged, said in (
        ('["k0", "k0"]', "lists an image twice; correct it, or delete it"),
        ("[0]", "a list of keys; correct it, or delete it"),
        ('{"k0": 1}', "damaged .*; delete it to have it made again"),
        ("[", "as JSON .*; delete it to have it made again"),
    ):
        kept.write_text(damaged)
        with pytest.raises(UserError, match=said):
            load_shots(made(30), 4, seed, "coop", tmp_path)


def test_draws_of_other_splits_or_ways_are_kept_apart(tmp_path):
    for count, draw in ((30, "coop"), (27, "coop"), (30, "first_n")):
        load_shots(made(count), 2, 1, draw, tmp_path)
    assert len(list(tmp_path.glob("split_fewshot-*/*.json"))) == 3
    assert load_shots(made(30), 2, 1, "first_n", tmp_path) == first_shots(made(30), 2)
