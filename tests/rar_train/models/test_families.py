"""Every family, with its real architecture and processor in tiny sizes: labels, training, ranking, adapter, merge."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from peft.tuners.lora import LoraLayer
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_answer, list_prompt
from data_prep.settings import LoraArgs, RankerArgs
from rar_train.families.table import FAMILIES
from rar_train.models.forest import Conversation
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora, load_adapter, parameter_table, save_adapter
from rar_train.models.mllm import Mllm
from rar_train.models.planting import plant
from rar_train.models.scoring import continues_prefix, score, takes_trees
from tests.rar_train.separate_passes import in_one_pass, naive
from tests.rar_train.tiny_families import NAMES, TINY, save_tiny, turn_end
from tests.rar_train.tiny_recent import TINY_RECENT

TURNS = [(NAMING, NAMES[0]), (letters_prompt(NAMES), "B"), (list_prompt(NAMES[:3]), list_answer(NAMES[2::-1]))]


FAST = {"qwen3_5", "gemma4", "molmo2"}
"""Recent families that every run of the tests includes; each has something of its own."""
KINDS = [pytest.param(kind, marks=pytest.mark.slow) if kind in TINY_RECENT.keys() - FAST else kind for kind in TINY]


@pytest.fixture(scope="module", params=KINDS)
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


@pytest.fixture(scope="module")
def adapted(folder: Path) -> Mllm:
    """The family's tiny model with a random adapter, in training mode but for the projector's dropout."""
    mllm = add_random_adapter(load_mllm(RankerArgs(model=str(folder))), "language")
    mllm.model.train()
    for projector in mllm.projectors:
        projector.eval()
    return mllm


STATEFUL = {"qwen3_5", "qwen3_5_moe", "minicpmv4_6", "minicpmv4_7", "lfm2_vl"}
"""Families with layers that pass a state along the row, so that conversations run one by one."""

conversations = st.one_of(
    st.permutations(NAMES).map(lambda names: Conversation(letters_prompt(names[:3]))),
    st.sampled_from(NAMES).map(lambda name: Conversation(NAMING, name)),
    st.permutations(NAMES).map(lambda names: Conversation(list_prompt(names[:3]), list_answer(names[1::-1]))),
)


@pytest.mark.parametrize("budget", [12, 2048])
@settings(
    max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(st.lists(st.lists(conversations, min_size=1, max_size=5), min_size=2, max_size=3))
def test_one_pass_has_the_scores_and_gradients_of_a_pass_for_each_conversation(adapted, photos, budget, asked):
    asked[0].append(Conversation(NAMING, NAMES[0]))
    runs = []
    assert takes_trees(adapted) == (adapted.base.config.model_type not in STATEFUL)
    adapted.tree_tokens = budget
    for function, checkpointing in ((naive, False), (in_one_pass, False), (in_one_pass, True)):
        if checkpointing:
            adapted.base.gradient_checkpointing_enable({"use_reentrant": False})
        adapted.model.zero_grad()
        scores = function(adapted, photos[: len(asked)], asked)
        (scores @ torch.linspace(0.5, 1, len(scores))).backward()
        runs.append((scores, torch.cat([p.grad.flatten() for p in adapted.model.parameters() if p.grad is not None])))
    adapted.base.gradient_checkpointing_disable()
    for scores, gradient in runs[1:]:
        torch.testing.assert_close(scores, runs[0][0], rtol=1e-5, atol=1e-4)
        assert (gradient - runs[0][1]).norm() <= 3e-5 * runs[0][1].norm()


def test_scores_do_not_depend_on_the_batch_or_on_the_answers_scored_before(mllm, photos):
    images = [photos[index % 3].rotate(20 * index) for index in range(16)]
    orders = [NAMES[:2], NAMES[1::-1]]
    asked = [
        Conversation(letters_prompt(NAMES)),
        *(Conversation(NAMING, name) for name in NAMES[:2]),
        *(Conversation(list_prompt(NAMES[:2]), list_answer(order)) for order in orders),
    ]
    letters = mllm.letter_ids(4)
    with torch.no_grad():
        runs = []
        for size in (1, 2, 7, 16):
            batches = [images[start : start + size] for start in range(0, 16, size)]
            scores = [score(mllm, plant(mllm, batch, [asked] * len(batch)), letters) for batch in batches]
            runs.append([torch.cat([each.letters for each in scores]), torch.cat([each.answers for each in scores])])
        whole = naive(mllm, images[:2], [asked] * 2)
    for run in runs[1:]:
        for values, expected in zip(run, runs[0], strict=True):
            torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-4)
    first = torch.cat([runs[0][0][:2].flatten(), runs[0][1][:8]])
    torch.testing.assert_close(first, whole, rtol=1e-5, atol=1e-4)


ONE_IMAGE = {"llava_next", "idefics3", "smolvlm"}
"""Families whose template here renders one image."""


def test_conversations_about_two_images_have_the_scores_of_a_pass_for_each(adapted, kind, photos):
    groups = [photos[:2], [photos[2], photos[0]]]
    asked = [[Conversation(letters_prompt(names)) for names in (NAMES, NAMES[::-1])] for _ in groups]
    adapted.tree_tokens = RankerArgs.tree_tokens
    if kind in ONE_IMAGE:
        with pytest.raises(UserError, match="does not take several images"):
            plant(adapted, groups, asked)
        return
    with torch.no_grad():
        torch.testing.assert_close(
            in_one_pass(adapted, groups, asked), naive(adapted, groups, asked), rtol=1e-5, atol=1e-4
        )


def test_a_worker_without_the_model_builds_the_same_trees(mllm, photos):
    asked = [[Conversation(prompt, answer) for prompt, answer in TURNS]] * 2
    worker = pickle.loads(pickle.dumps(mllm.without_model()))
    here, there = (plant(each, photos[:2], asked) for each in (mllm, worker))
    assert here.paths == there.paths
    assert torch.equal(here.ids, there.ids) and torch.equal(here.positions, there.positions)


def test_the_answer_depends_on_the_image(mllm, photos):
    upright = compute_logits(mllm, photos)
    flipped = compute_logits(mllm, [photo.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for photo in photos])
    assert not torch.allclose(upright, flipped, atol=1e-4)


def test_every_linear_layer_is_adapted_in_layers_that_pass_a_state(mllm, kind):
    if kind not in STATEFUL:
        return
    assert continues_prefix(mllm)
    linear = {name for name, layer in mllm.base.get_decoder().named_modules() if isinstance(layer, torch.nn.Linear)}
    tuned = add_lora(mllm, LoraArgs(rank=2))
    layers = tuned.base.get_decoder().named_modules()
    adapted = {name for name, layer in layers if isinstance(layer, LoraLayer)}
    assert linear - adapted == {name for name in linear if name.endswith("shared_expert_gate")}


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
    # As DDP needs it; LLaVA reads the layer before the last, so the tower's last layer is not trained.
    assert all(value.grad is not None for value in trained.values())
    idle = {name for name, value in trained.items() if not value.grad.abs().sum()}
    assert all(".readers." in name for name in idle)  # lite-mllm uses one of its readers


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


def test_images_of_extreme_aspect_ratios_are_accepted(mllm, kind):
    sizes = {(1, 1), (1, 200), (200, 1), (3, 600), (2000, 10)}
    if kind == "lfm2_vl":  # with the few tokens here, a thumbnail of such a shape doesn't fit
        sizes = {(1, 1), (1, 12), (12, 1)}
    for size in sorted(sizes):
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


def test_gemma_4_without_attention_in_both_directions_has_the_scores_of_whole_passes(photos, tmp_path):
    """As its small models are."""
    folder = save_tiny("gemma4", tmp_path / "small")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["use_bidirectional_attention"] = None
    (folder / "config.json").write_text(json.dumps(config))
    mllm = load_mllm(RankerArgs(model=str(folder)))
    assert mllm.bidirectional == "none" and takes_trees(mllm)
    asked = [[Conversation(letters_prompt(NAMES)), *(Conversation(NAMING, name) for name in NAMES[:2])]] * 2
    with torch.no_grad():
        torch.testing.assert_close(
            in_one_pass(mllm, photos[:2], asked), naive(mllm, photos[:2], asked), rtol=1e-5, atol=1e-4
        )
