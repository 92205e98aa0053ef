"""Exact epochs by sample, a position to go on from, and the loaders of a run."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import lightning as L
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from data_prep.core.errors import UserError
from data_prep.leakage.contamination import read_mined
from data_prep.mining.shards import ShardedExamples
from data_prep.prompting.prompts import list_answer
from rar_train.engine.sampler import EpochSampler
from rar_train.ranker.datamodule import DataPosition, RankingData, optimizer_steps

sizes = st.tuples(st.integers(1, 60), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))


def dealt(examples, batch_size, world, epochs, seed, batches=0, **how) -> list[list]:
    """What each process is dealt."""
    position = DataPosition(batches)
    return [list(EpochSampler(examples, batch_size, r, world, epochs, seed, position, **how)) for r in range(world)]


def rows_of(by_rank: list[list], epoch: int) -> list[int]:
    """The rows that count in an epoch, of all processes together."""
    places = [place for batches in by_rank for batch in batches for place in batch]
    return [place.row for place in places if place.epoch == epoch and place.weight]


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(1, 5), st.integers(0, 1000))
def test_an_epoch_deals_every_example_once_in_whole_steps_of_as_many_batches_on_every_process(size, accumulate, seed):
    examples, batch_size, world, epochs = size
    by_rank = dealt(*size, seed, accumulate=accumulate)
    steps = -(-examples // (batch_size * world * accumulate))
    for rank, batches in enumerate(by_rank):
        sampler = EpochSampler(examples, batch_size, rank, world, epochs, seed, DataPosition(), accumulate=accumulate)
        assert len(batches) == len(sampler) == epochs * steps * accumulate
        assert all(1 <= len(batch) <= batch_size for batch in batches)
    counted = [sum(place.weight > 0 for batch in batches for place in batch) for batches in zip(*by_rank, strict=True)]
    assert max(counted) - min(counted) <= 1
    for epoch in range(epochs):
        assert sorted(rows_of(by_rank, epoch)) == list(range(examples))


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(1, 5), st.booleans(), st.integers(0, 1000))
def test_every_example_of_a_step_counts_the_same_in_the_steps_mean(size, accumulate, grouped, seed):
    examples, _, world, _ = size
    lengths = np.random.default_rng(seed).integers(1, 99, examples) if grouped else None
    by_rank = dealt(*size, seed, accumulate=accumulate, lengths=lengths)
    for start in range(0, len(by_rank[0]), accumulate):
        step = [place for batches in by_rank for batch in batches[start : start + accumulate] for place in batch]
        counting = [place for place in step if place.weight]
        assert len({place.epoch for place in step}) == 1
        # What processes and passes average, they average over world x accumulate sums.
        assert {place.weight for place in counting} == {world * accumulate / len(counting)}


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 1000))
def test_full_batches_leave_out_the_tail_alone(size, seed):
    examples, batch_size, world, epochs = size
    by_rank = dealt(*size, seed, full=True)
    assert all(len(batch) == batch_size for batches in by_rank for batch in batches)
    for epoch in range(epochs):
        rows = rows_of(by_rank, epoch)
        assert len(rows) == len(set(rows)) == examples // (batch_size * world) * batch_size * world


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 1000), st.data())
def test_a_resumed_stream_is_exactly_the_rest_of_the_whole_one(size, seed, data):
    whole = dealt(*size, seed)
    position = data.draw(st.integers(0, len(whole[0])))
    assert dealt(*size, seed, position) == [batches[position:] for batches in whole]


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 1000), st.data())
def test_grouping_by_length_deals_every_example_too_and_goes_on_from_any_position(size, seed, data):
    examples, _, _, epochs = size
    lengths = np.array(data.draw(st.lists(st.integers(1, 99), min_size=examples, max_size=examples)))
    whole = dealt(*size, seed, lengths=lengths)
    for epoch in range(epochs):
        assert sorted(rows_of(whole, epoch)) == list(range(examples))
    position = data.draw(st.integers(0, len(whole[0])))
    assert dealt(*size, seed, position, lengths=lengths) == [batches[position:] for batches in whole]


def test_grouping_by_length_leaves_less_to_pad_and_keeps_batches_in_random_order():
    lengths = np.random.default_rng(0).integers(10, 1000, 4000)
    sampler = EpochSampler(4000, 8, 0, 1, 1, 0, DataPosition(), lengths)
    batches = [lengths[[place.row for place in batch]] for batch in sampler]
    (plain,) = dealt(4000, 8, 1, 1, 0)
    padding = sum(len(batch) * batch.max() - batch.sum() for batch in batches)
    random = [lengths[[place.row for place in batch]] for batch in plain]
    assert padding < 0.2 * sum(len(batch) * batch.max() - batch.sum() for batch in random)
    longest = np.array([batch.max() for batch in batches])
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.2


def test_epochs_and_seeds_come_in_different_orders_and_the_same_seed_in_the_same():
    (one,) = dealt(40, 4, 1, 2, 0)
    first, second = ([place.row for batch in half for place in batch] for half in (one[:10], one[10:]))
    assert sorted(first) == sorted(second) == list(range(40))
    (other,) = dealt(40, 4, 1, 1, 1)
    assert len({tuple(first), tuple(second), tuple(place.row for batch in other for place in batch)}) == 3
    assert dealt(40, 4, 1, 2, 0) == [one]


class _Numbers(Dataset):
    """The places that a loader asks for."""

    def __getitem__(self, place):
        return place


@pytest.mark.parametrize("examples", [48, 49, 50])
def test_two_ranks_of_two_workers_see_every_example_once_an_epoch(examples):
    seen = []
    for rank in range(2):
        sampler = EpochSampler(examples, 4, rank, 2, 2, 0, DataPosition())
        loader = DataLoader(_Numbers(), batch_sampler=sampler, collate_fn=list, num_workers=2)
        seen += [(place.row, place.epoch) for batch in loader for place in batch]
    assert sorted(seen) == sorted((row, epoch) for row in range(examples) for epoch in range(2))


@pytest.fixture(scope="module")
def data_of(tiny, nano, tmp_path_factory):
    """Makes a DataModule as a Trainer would see it."""

    def make(*changes: str) -> RankingData:
        data = RankingData(tiny(tmp_path_factory.mktemp("data"), *changes), nano)
        data.trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        data.prepare_data()
        data.setup("fit")
        return data

    return make


def keys_of(loader) -> list[list[str]]:
    return [[example.key for example in batch.examples] for batch in loader]


def test_the_data_are_made_and_hold_tuning_and_development_apart(data_of):
    data = data_of()
    assert len(data.train_set) > 0 and len(data.val_set) > 0
    assert all(data.train_set[i][0].key.startswith("tuning") for i in range(len(data.train_set)))
    assert all(data.val_set[i][0].key.startswith("development") for i in range(len(data.val_set)))
    assert all(data.train_set[i][0].truth is not None for i in range(len(data.train_set)))


def test_the_training_loader_goes_on_from_a_saved_position_with_the_rest(data_of):
    whole = keys_of(data_of("optim.epochs=2").train_dataloader())
    data = data_of("optim.epochs=2")
    data.load_state_dict({"batches": 3})
    assert data.state_dict() == {"batches": 3}
    assert len(whole) > 3 and keys_of(data.train_dataloader()) == whole[3:]


def test_the_candidates_order_changes_from_epoch_to_epoch(data_of):
    shown: dict[str, set] = {}
    for batch in data_of("optim.epochs=3", "optim.batch_size=2").train_dataloader():
        for example in batch.examples:
            shown.setdefault(example.key, set()).add(example.candidates)
    assert sum(len(orders) > 1 for orders in shown.values()) > len(shown) / 2


def test_a_run_keeps_the_list_of_what_was_mined(data_of):
    data = data_of()
    assert len(read_mined(Path(data.recipe.out))) == 24  # 8 classes of 3 pictures


def test_streaming_draws_from_the_same_examples_and_goes_on_from_a_position(data_of):
    data = data_of("mining.streaming=true")
    whole = [[example.key for example in batch.examples] for batch in islice(data.train_dataloader(), 6)]
    known = {example.key for example in ShardedExamples(data.train_set.folder).examples()}
    assert {key for batch in whole for key in batch} <= known
    data.load_state_dict({"batches": 2})
    rest = [[example.key for example in batch.examples] for batch in islice(data.train_dataloader(), 4)]
    assert rest == whole[2:]


def test_a_batch_carries_what_its_examples_count(data_of):
    batches = list(
        data_of("optim.batch_size=3", "optim.grad_accum_steps=3", "trainer.num_workers=1").train_dataloader()
    )
    for start in range(0, len(batches), 3):
        weights = [weight for batch in batches[start : start + 3] for weight in batch.weights]
        assert weights == [3 / len(weights)] * len(weights)
    assert sum(len(batch.examples) for batch in batches) == len(data_of().kept)


def test_workers_prepare_the_same_batches(data_of):
    assert keys_of(data_of("trainer.num_workers=2").train_dataloader()) == keys_of(data_of().train_dataloader())


def test_the_list_objective_asks_for_the_recipes_target(data_of, nano):
    data = data_of("ranker.objectives.list=1", "mining.target=truth_only")
    batch = next(iter(data.train_dataloader()))
    for row, example in enumerate(batch.examples):
        labels = batch.sorting["labels"][row]
        answer = nano.processor.tokenizer.decode(labels[labels != -100], skip_special_tokens=True).strip()
        assert answer == list_answer([example.candidates[example.truth].name])


def test_only_the_recipes_objectives_are_collated(data_of):
    batch = next(iter(data_of("ranker.objectives.likelihood=0").train_dataloader()))
    assert batch.letters is not None and batch.naming is None and batch.sorting is None


def test_validation_is_a_fixed_spread_of_development_examples(data_of):
    data = data_of("trainer.val_examples=5")
    keys = [key for batch in keys_of(data.val_dataloader()) for key in batch]
    everything = [data.val_set[i][0].key for i in range(len(data.val_set))]
    assert len(set(keys)) == 5
    assert keys[0] == everything[0] and keys[-1] == everything[-1]
    assert keys_of(data.val_dataloader()) == keys_of(data.val_dataloader())
    many = data_of("trainer.val_examples=1000")
    assert [key for batch in keys_of(many.val_dataloader()) for key in batch] == everything


def test_too_few_examples_for_a_step_say_so(data_of):
    with pytest.raises(UserError, match=r"\d+ ranking examples do not fill one step of 4000; lower optim.batch_size"):
        data_of("optim.batch_size=2000", "optim.grad_accum_steps=2")


def test_damaged_shards_are_found_before_training(data_of, nano, tiny, tmp_path):
    data = data_of(f"cache={tmp_path / 'cache'}")
    shard = next(Path(data.train_set.folder).glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{shard.name}: damaged"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (["optim.max_steps=-1"], 26),
        (["optim.max_steps=-1", "optim.epochs=3"], 78),
        (["optim.max_steps=-1", "optim.epochs=3", "optim.grad_accum_steps=2"], 39),
        (["optim.max_steps=-1", "optim.epochs=3", "optim.grad_accum_steps=8"], 12),
        (["optim.max_steps=-1", "trainer.devices=2", "trainer.num_nodes=2"], 7),
        (["optim.max_steps=10"], 10),
        (["optim.max_steps=1000"], 26),
    ],
)
def test_steps_follow_from_examples_batches_and_processes(tiny, tmp_path, changes, steps):
    assert optimizer_steps(tiny(tmp_path, *changes), 103) == steps
