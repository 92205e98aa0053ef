"""Exact epochs over the examples, resuming from a position, and the loaders of a run."""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from data_prep.core.errors import UserError
from data_prep.distributed import devices
from data_prep.leakage.contamination import read_mined
from data_prep.mining.shards import ShardedExamples
from data_prep.prompting.prompts import list_answer
from rar_train.engine.sampler import DataPosition, EpochPlan, EpochSampler
from rar_train.ranker.datamodule import RankingData, optimizer_steps

sizes = st.tuples(st.integers(1, 60), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))


def sample_all(examples, batch_size, world, epochs, seed, batches=0, **options) -> list[list]:
    """Returns the batches of each process."""
    plan, position = EpochPlan(examples, batch_size, world, epochs, seed, **options), DataPosition(batches)
    return [list(EpochSampler(plan, rank, position)) for rank in range(world)]


def rows_of(by_rank: list[list], epoch: int) -> list[int]:
    """Returns the rows of an epoch that have a weight, over all processes."""
    examples = [example for batches in by_rank for batch in batches for example in batch]
    return [example.row for example in examples if example.epoch == epoch and example.weight]


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(1, 5), st.integers(0, 1000))
def test_an_epoch_has_every_example_once_and_each_process_as_many_batches_in_full_steps(size, accumulate, seed):
    examples, batch_size, world, epochs = size
    by_rank = sample_all(*size, seed, accumulate=accumulate)
    steps = -(-examples // (batch_size * world * accumulate))
    for batches in by_rank:
        sampler = EpochPlan(examples, batch_size, world, epochs, seed, accumulate=accumulate)
        assert len(batches) == len(sampler) == epochs * steps * accumulate
        assert all(1 <= len(batch) <= batch_size for batch in batches)
    counted = [sum(one.weight > 0 for batch in batches for one in batch) for batches in zip(*by_rank, strict=True)]
    assert max(counted) - min(counted) <= 1
    for epoch in range(epochs):
        assert sorted(rows_of(by_rank, epoch)) == list(range(examples))


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(1, 5), st.booleans(), st.integers(0, 1000))
def test_every_example_of_a_step_has_the_same_weight_in_its_mean(size, accumulate, grouped, seed):
    examples, _, world, _ = size
    lengths = np.random.default_rng(seed).integers(1, 99, examples) if grouped else None
    by_rank = sample_all(*size, seed, accumulate=accumulate, lengths=lengths)
    for start in range(0, len(by_rank[0]), accumulate):
        step = [example for batches in by_rank for batch in batches[start : start + accumulate] for example in batch]
        weighted = [example for example in step if example.weight]
        assert len({example.epoch for example in step}) == 1
        # Processes and passes average over world x accumulate sums.
        assert {example.weight for example in weighted} == {world * accumulate / len(weighted)}


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 1000))
def test_full_batches_drop_only_the_tail(size, seed):
    examples, batch_size, world, epochs = size
    by_rank = sample_all(*size, seed, full=True)
    assert all(len(batch) == batch_size for batches in by_rank for batch in batches)
    for epoch in range(epochs):
        rows = rows_of(by_rank, epoch)
        assert len(rows) == len(set(rows)) == examples // (batch_size * world) * batch_size * world


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 1000), st.data())
def test_a_resumed_stream_is_exactly_the_rest_of_the_complete_one(size, seed, data):
    complete = sample_all(*size, seed)
    position = data.draw(st.integers(0, len(complete[0])))
    assert sample_all(*size, seed, position) == [batches[position:] for batches in complete]


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 1000), st.data())
def test_grouping_by_length_has_every_example_and_resumes_from_any_position(size, seed, data):
    examples, _, _, epochs = size
    lengths = np.array(data.draw(st.lists(st.integers(1, 99), min_size=examples, max_size=examples)))
    complete = sample_all(*size, seed, lengths=lengths)
    for epoch in range(epochs):
        assert sorted(rows_of(complete, epoch)) == list(range(examples))
    position = data.draw(st.integers(0, len(complete[0])))
    assert sample_all(*size, seed, position, lengths=lengths) == [batches[position:] for batches in complete]


def test_grouping_by_length_pads_less_and_keeps_batches_in_random_order():
    lengths = np.random.default_rng(0).integers(10, 1000, 4000)
    sampler = EpochSampler(EpochPlan(4000, 8, 1, 1, 0, lengths), 0, DataPosition())
    batches = [lengths[[example.row for example in batch]] for batch in sampler]
    (plain,) = sample_all(4000, 8, 1, 1, 0)
    padding = sum(len(batch) * batch.max() - batch.sum() for batch in batches)
    random = [lengths[[example.row for example in batch]] for batch in plain]
    assert padding < 0.2 * sum(len(batch) * batch.max() - batch.sum() for batch in random)
    longest = np.array([batch.max() for batch in batches])
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.2


def test_epochs_and_seeds_have_different_orders_and_the_same_seed_the_same():
    (batches,) = sample_all(40, 4, 1, 2, 0)
    halves = (batches[:10], batches[10:])
    first, second = ([example.row for batch in half for example in batch] for half in halves)
    assert sorted(first) == sorted(second) == list(range(40))
    (other_seed,) = sample_all(40, 4, 1, 1, 1)
    assert len({tuple(first), tuple(second), tuple(example.row for batch in other_seed for example in batch)}) == 3
    assert sample_all(40, 4, 1, 2, 0) == [batches]


class _Keys(Dataset):
    """Returns the keys that a loader requests."""

    def __getitem__(self, key):
        return key


@pytest.mark.parametrize("examples", [48, 49, 50])
def test_two_ranks_with_two_workers_each_read_every_example_once_an_epoch(examples):
    seen = []
    for rank in range(2):
        sampler = EpochSampler(EpochPlan(examples, 4, 2, 2, 0), rank, DataPosition())
        loader = DataLoader(_Keys(), batch_sampler=sampler, collate_fn=list, num_workers=2)
        seen += [(example.row, example.epoch) for batch in loader for example in batch]
    assert sorted(seen) == sorted((row, epoch) for row in range(examples) for epoch in range(2))


@pytest.fixture(scope="module")
def make_data(tiny, nano, tmp_path_factory):
    """Makes a DataModule as a Trainer would use it."""

    def make(*changes: str) -> RankingData:
        data = RankingData(tiny(tmp_path_factory.mktemp("data"), *changes), nano)
        data.trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        data.prepare_data()
        data.setup("fit")
        return data

    return make


def keys_of(loader) -> list[list[str]]:
    return [[example.key for example in batch.examples] for batch in loader]


def test_the_data_are_built_and_keep_train_and_val_apart(make_data):
    data = make_data()
    assert len(data.train_set) > 0 and len(data.val_set) > 0
    # Armory's keys of the parts train and val begin with these words.
    assert all(data.train_set[i][0].key.startswith("tuning") for i in range(len(data.train_set)))
    assert all(data.val_set[i][0].key.startswith("development") for i in range(len(data.val_set)))
    assert all(data.train_set[i][0].truth is not None for i in range(len(data.train_set)))


def test_the_training_loader_resumes_from_a_saved_position_with_the_rest(make_data):
    complete = keys_of(make_data("optim.epochs=2").train_dataloader())
    data = make_data("optim.epochs=2")
    data.load_state_dict({"batches": 3})
    assert data.state_dict() == {"batches": 3}
    assert len(complete) > 3 and keys_of(data.train_dataloader()) == complete[3:]


def test_the_candidates_order_changes_from_epoch_to_epoch(make_data):
    shown: dict[str, set] = {}
    for batch in make_data("optim.epochs=3", "optim.batch_size=2").train_dataloader():
        for example in batch.examples:
            shown.setdefault(example.key, set()).add(example.candidates)
    assert sum(len(orders) > 1 for orders in shown.values()) > len(shown) / 2


def test_a_run_keeps_the_list_of_mined_images(make_data):
    data = make_data()
    assert len(read_mined(Path(data.recipe.out))) == 24  # 8 classes of 3 images


def test_streaming_samples_the_same_examples_and_resumes_from_a_position(make_data):
    data = make_data("mining.streaming=true")
    complete = [[example.key for example in batch.examples] for batch in islice(data.train_dataloader(), 6)]
    known = {example.key for example in ShardedExamples(data.train_set.folder).examples()}
    assert {key for batch in complete for key in batch} <= known
    data.load_state_dict({"batches": 2})
    rest = [[example.key for example in batch.examples] for batch in islice(data.train_dataloader(), 4)]
    assert rest == complete[2:]


def test_a_batch_has_the_weights_of_its_examples(make_data):
    batches = list(
        make_data("optim.batch_size=3", "optim.grad_accum_steps=3", "trainer.num_workers=1").train_dataloader()
    )
    for start in range(0, len(batches), 3):
        weights = [weight for batch in batches[start : start + 3] for weight in batch.weights]
        assert weights == [3 / len(weights)] * len(weights)
    assert sum(len(batch.examples) for batch in batches) == len(make_data().selected)


def test_workers_prepare_the_same_batches(make_data):
    assert keys_of(make_data("trainer.num_workers=2").train_dataloader()) == keys_of(make_data().train_dataloader())


def test_workers_are_sent_no_weights(make_data, nano):
    data = make_data("trainer.num_workers=1")
    weights = sum(value.nbytes for value in nano.model.parameters())
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert len(pickle.dumps(loader.collate_fn)) < weights / 10


def test_on_a_gpu_batches_come_from_workers_in_pinned_memory(make_data, monkeypatch):
    data = make_data("trainer.accelerator=auto", "trainer.devices=2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "available_cores", lambda: 8)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert (loader.num_workers, loader.pin_memory) == (3, True)


def test_a_pinned_batch_has_all_its_inputs_pinned(make_data, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)  # visible without a GPU
    original = next(iter(make_data("ranker.objectives.list=1").train_dataloader()))
    pinned = next(iter(make_data("ranker.objectives.list=1").train_dataloader())).pin_memory()
    before, after = vars(original.forest), vars(pinned.forest)
    for name in (name for name, value in before.items() if isinstance(value, torch.Tensor)):
        assert torch.equal(after[name], before[name] + 1), name
    for name, pixels in original.forest.pixels.items():
        assert torch.equal(pinned.forest.pixels[name], pixels + 1)


def test_the_list_objective_trains_towards_the_recipes_target(make_data, nano):
    data = make_data("ranker.objectives.list=1", "mining.target=truth_only")
    batch = next(iter(data.train_dataloader()))
    for row, example in enumerate(batch.examples):
        ids = [path.answer for path in batch.forest.paths if path.row == row][-1]
        answer = nano.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert answer == list_answer([example.candidates[example.truth].name])


def test_only_the_recipes_objectives_are_collated(make_data):
    batch = next(iter(make_data("ranker.objectives.likelihood=0").train_dataloader()))
    assert batch.modes == {"letters"} and not any(path.answer for path in batch.forest.paths)


def test_validation_uses_the_same_evenly_spaced_examples_each_time(make_data):
    data = make_data("trainer.val_examples=5")
    keys = [key for batch in keys_of(data.val_dataloader()) for key in batch]
    everything = [data.val_set[i][0].key for i in range(len(data.val_set))]
    assert len(set(keys)) == 5
    assert keys[0] == everything[0] and keys[-1] == everything[-1]
    assert keys_of(data.val_dataloader()) == keys_of(data.val_dataloader())
    many = make_data("trainer.val_examples=1000")
    assert [key for batch in keys_of(many.val_dataloader()) for key in batch] == everything


def test_too_few_examples_for_a_step_are_an_error(make_data):
    with pytest.raises(UserError, match=r"\d+ ranking examples do not fill one step of 4000; lower optim.batch_size"):
        make_data("optim.batch_size=2000", "optim.grad_accum_steps=2")


def test_damaged_shards_are_found_before_training(make_data, nano, tiny, tmp_path):
    data = make_data(f"cache={tmp_path / 'cache'}")
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
