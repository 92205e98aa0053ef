"""Every family, with its real architecture and processor in tiny sizes: labels, training, ranking, adapter, merge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_answer, list_prompt
from data_prep.settings import LoraArgs, RankerArgs
from rar_train.models.families import FAMILIES
from rar_train.models.inputs import letter_inputs, naming_inputs
from rar_train.models.lora import add_lora, load_adapter, parameter_table, save_adapter
from rar_train.models.mllm import Mllm, load_mllm
from rar_train.models.scoring import answer_loss, letter_scores, name_scores
from tests.rar_train.tiny_families import NAMES, TINY, save_tiny, turn_end

TURNS = [(NAMING, NAMES[0]), (letters_prompt(NAMES), "B"), (list_prompt(NAMES[:3]), list_answer(NAMES[2::-1]))]


@pytest.fixture(scope="module", params=list(TINY))
def kind(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's tiny model as a folder in the hub's layout."""
    return save_tiny(kind, tmp_path_factory.mktemp("families") / kind)


@pytest.fixture
def mllm(folder: Path) -> Mllm:
    """The family's tiny model, loaded again for each test."""
    return load_mllm(RankerArgs(model=str(folder)))


@pytest.fixture(scope="module")
def photos(pictures) -> list[Image.Image]:
    """Images of different shapes."""
    return [pictures[0], pictures[1].resize((96, 60)), pictures[2].resize((50, 96))]


def add_random_adapter(mllm: Mllm, scope: str) -> Mllm:
    """Adds an adapter with random weights, so that it changes the output."""
    projector = "full" if mllm.family.projector is None else "lora"
    tuned = add_lora(mllm, LoraArgs(rank=2, scope=scope, projector=projector))
    torch.manual_seed(1)
    for name, parameter in tuned.model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return tuned


def compute_logits(mllm: Mllm, photos) -> torch.Tensor:
    prompts, _ = zip(*TURNS, strict=True)
    with torch.no_grad():
        return mllm.model.eval()(**mllm.inputs(photos, prompts), logits_to_keep=1).logits


def test_the_table_names_every_family_that_is_tested():
    assert set(FAMILIES) == set(TINY)


def test_labelled_tokens_decode_to_the_answer_and_the_turns_end_exactly(mllm, kind, photos):
    prompts, answers = zip(*TURNS, strict=True)
    batch = mllm.labelled(photos, prompts, answers)
    for ids, labels, mask, answer in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"], answers, strict=True
    ):
        labelled = labels != -100
        assert mllm.processor.tokenizer.decode(labels[labelled]).strip() == answer + turn_end(kind)
        assert torch.equal(labels[labelled], ids[labelled])
        assert int(labelled.nonzero()[-1]) == int(mask.sum()) - 1
    inputs = mllm.inputs(photos, prompts)
    for ids, mask, full, labels in zip(
        inputs["input_ids"], inputs["attention_mask"], batch["input_ids"], batch["labels"], strict=True
    ):
        assert ids[mask.bool()].tolist() == full[: int((labels != -100).nonzero()[0])].tolist()
    assert mllm.processor.tokenizer.convert_ids_to_tokens(mllm.turn_end_id) == turn_end(kind)
    letters = mllm.letter_ids(26)
    assert [mllm.processor.tokenizer.decode([letter]).strip() for letter in letters] == list(LETTERS)


def test_letters_and_likelihoods_are_the_same_alone_in_a_batch_and_in_a_full_pass(mllm, photos):
    names = [NAMES[:3], NAMES[1:], NAMES[:2]]
    counts = [len(row) for row in names]
    with torch.no_grad():
        letters = letter_scores(mllm, *letter_inputs(mllm, photos, names), counts)
        scores = name_scores(mllm, *naming_inputs(mllm, photos, names)).split(counts)
        for index, (photo, row) in enumerate(zip(photos, names, strict=True)):
            alone = letter_scores(mllm, *letter_inputs(mllm, [photo], [row]), [len(row)])[0]
            torch.testing.assert_close(letters[index, : len(row)], alone, rtol=1e-4, atol=1e-4)
            for score, name in zip(scores[index], row, strict=True):
                batch = mllm.labelled([photo], [NAMING], [name])
                labels = batch.pop("labels")[:, 1:]
                tokens = mllm.model(**batch).logits[:, :-1].log_softmax(-1)
                expected = tokens[labels != -100].gather(1, labels[labels != -100][:, None]).sum()
                torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-3)


def test_an_answers_loss_equals_hugging_faces_loss_of_it_alone_whatever_else_is_in_the_batch(mllm, photos):
    prompts, answers = zip(*TURNS, strict=True)
    with torch.no_grad():
        alone = [
            mllm.model(**mllm.labelled([p], [q], [a])).loss for p, q, a in zip(photos, prompts, answers, strict=True)
        ]
        for side in ("right", "left"):
            each = answer_loss(mllm, mllm.labelled(photos, prompts, answers, side))
            torch.testing.assert_close(each, torch.stack(alone), rtol=1e-4, atol=1e-3)


def test_the_answer_depends_on_the_image(mllm, photos):
    upright = compute_logits(mllm, photos)
    flipped = compute_logits(mllm, [photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for photo in photos])
    assert not torch.allclose(upright, flipped, atol=1e-4)


@pytest.mark.parametrize("scope", ["language", "language+projector", "language+projector+vision"])
def test_the_scope_is_trained_and_nothing_else(mllm, scope):
    table = {part: trainable for part, trainable, _ in parameter_table(add_random_adapter(mllm, scope))}
    assert table["language model"] > 0
    assert (table["projector"] > 0) == ("projector" in scope)
    assert (table["vision tower"] > 0) == ("vision" in scope)


def test_the_loss_falls_and_every_adapted_layer_in_scope_gets_a_gradient(mllm, photos):
    tuned = add_random_adapter(mllm, "language+projector+vision")
    batch = tuned.labelled(photos, *zip(*TURNS, strict=True))
    trained = {name: value for name, value in tuned.model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.02)
    tuned.model.train()
    losses = []
    for _ in range(12):
        loss = tuned.model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    idle = {name for name, value in trained.items() if value.grad is None or not value.grad.abs().sum()}
    # LLaVA reads the layer before the last, so the tower's last layer is unused; lite-mllm uses one of its readers.
    assert all("vision_tower.encoder.layers.1." in name or ".readers." in name for name in idle)


def test_an_adapter_gives_the_same_logits_when_loaded_and_when_merged(mllm, folder, photos, tiny, tmp_path):
    plain = compute_logits(mllm, photos)
    tuned = add_random_adapter(mllm, "language+projector+vision")
    expected = compute_logits(tuned, photos)
    assert not torch.allclose(expected, plain, atol=1e-3)
    save_adapter(tuned, tmp_path / "adapter", tiny(tmp_path), {})
    loaded = load_adapter(load_mllm(RankerArgs(model=str(folder))), tmp_path / "adapter")
    torch.testing.assert_close(compute_logits(loaded, photos), expected, rtol=1e-5, atol=1e-5)
    merged = Mllm(loaded.model.merge_and_unload(), loaded.processor, loaded.family, loaded.id)
    torch.testing.assert_close(compute_logits(merged, photos), expected, rtol=1e-4, atol=1e-4)


def test_a_pixel_budget_makes_fewer_tokens_or_says_that_the_size_is_fixed(mllm, folder, photos):
    budget = RankerArgs(model=str(folder), max_pixels=32 * 32)
    if mllm.family.budget is None:
        with pytest.raises(UserError, match="fixed size"):
            load_mllm(budget)
        return
    small = load_mllm(budget)
    wide = [photos[1]]
    assert small.inputs(wide, [NAMING])["input_ids"].shape[1] < mllm.inputs(wide, [NAMING])["input_ids"].shape[1]
    with torch.no_grad():
        assert small.model(**small.labelled(photos, *zip(*TURNS, strict=True))).loss.isfinite()


def test_images_of_extreme_aspect_ratios_are_accepted(mllm):
    for size in ((1, 1), (1, 200), (200, 1), (3, 600), (2000, 10)):
        assert mllm.inputs([Image.new("RGB", size)], [NAMING])["input_ids"].shape[0] == 1


@pytest.mark.parametrize("inside_size", [False, True])
def test_pixel_limits_are_read_by_their_older_names_too(mllm, kind, folder, photos, tmp_path, inside_size):
    if mllm.family.rename_sizes is None:
        return
    older = shutil.copytree(folder, tmp_path / "older")
    config = json.loads((older / "processor_config.json").read_text())
    size = config["image_processor"].pop("size")
    limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    config["image_processor"] |= {"size": limits} if inside_size else limits
    (older / "processor_config.json").write_text(json.dumps(config))
    loaded = load_mllm(RankerArgs(model=str(older)))
    for photo in photos:
        expected = mllm.inputs([photo], [NAMING])["input_ids"]
        assert torch.equal(loaded.inputs([photo], [NAMING])["input_ids"], expected)
    small, wide = load_mllm(RankerArgs(model=str(older), max_pixels=32 * 32)), photos[1:2]
    assert small.inputs(wide, [NAMING])["input_ids"].shape[1] < loaded.inputs(wide, [NAMING])["input_ids"].shape[1]
    config["image_processor"]["size"] = {"height": 32, "width": 32}
    for limit in limits:
        config["image_processor"].pop(limit, None)
    (older / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"ranker\.model.*preprocessor_config\.json|could not be loaded"):
        load_mllm(RankerArgs(model=str(older)))
