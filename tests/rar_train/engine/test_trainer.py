"""How often a run is validated."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from rar_train.engine.trainer import validation_interval


@given(st.integers(1, 10_000), st.integers(1, 10_000))
@example(50, 113)
@example(50, 9)
def test_a_run_is_validated_at_least_four_times_and_as_often_as_is_set(checkpoint_every, steps):
    interval = validation_interval(checkpoint_every, steps)
    validated = {*range(interval, steps, interval), steps}
    assert 1 <= interval <= checkpoint_every
    assert min(4, steps) <= len(validated)
    # Not oftener than either asks for, but in runs of so few steps that these can't be divided evenly.
    assert len(validated) <= max(-(-steps // checkpoint_every), 4, 7 if steps < 12 else 5)
