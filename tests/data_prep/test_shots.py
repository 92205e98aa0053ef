"""Shots are CoOp's draw, image for image."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.records import Sample
from data_prep.shots import draw_shots


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
