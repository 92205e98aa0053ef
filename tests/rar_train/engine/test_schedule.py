"""The learning-rate schedule."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rar_train.engine.schedule import warmup_cosine


def compute_rates(warmup: float, steps: int) -> list[float]:
    """Returns the rate at each step of a run, relative to its peak."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    parts = warmup_cosine(optimizer, warmup, steps)
    assert parts["optimizer"] is optimizer and parts["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        parts["lr_scheduler"]["scheduler"].step()
    return rates


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1), st.integers(1, 200))
def test_the_rate_rises_to_its_peak_once_and_falls_to_a_hundredth_of_it(warmup, steps):
    rates = compute_rates(warmup, steps)
    peak = max(1, round(warmup * steps)) - 1
    assert rates[peak] == pytest.approx(1)
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in pairwise(rates[peak:]))
    assert min(rates) > 0
    if peak + 1 < steps:
        assert rates[-1] == pytest.approx(0.01)


def test_ten_per_cent_of_a_hundred_steps_warm_up_evenly():
    assert compute_rates(0.1, 100)[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
