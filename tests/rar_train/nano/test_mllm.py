"""Conversations of base training, and both stages with a few steps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from data_prep.armory.base_corpus import BaseCorpus, base_corpus, detail_indices
from data_prep.armory.blazon import (
    COUNT_WORDS,
    DETAILS,
    DIVISIONS,
    TINCTURES,
    Blazon,
    owning_split,
    random_blazon_of_split,
)
from data_prep.core.files import file_hash, read_json
from data_prep.core.paths import NANO_MLLM
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_answer, list_prompt
from data_prep.prompting.replies import read_list
from data_prep.settings import NanoArgs, RankerArgs, Recipe
from data_prep.settings.loading import load_recipe
from rar_train.engine.run_folder import is_complete
from rar_train.families.table import FAMILIES
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm
from rar_train.nano.architecture import PIXELS, TOKENS, nano_config, nano_processor
from rar_train.nano.conversations import Conversations, sample_hard_negative
from rar_train.nano.mllm import LanguageModule, train_nano_mllm
from rar_train.nano.tower import (
    RandomBatches,
    TowerModule,
    init_projector,
    to_pixel_values,
    tower_features,
    train_tower,
)
from tests.damage import damage

ROWS = np.arange(12)


@pytest.fixture(scope="module")
def corpus() -> BaseCorpus:
    """Blazons with noise as images."""
    rng = np.random.default_rng(0)
    blazons = [random_blazon_of_split("base", rng) for _ in range(40)]
    images = rng.integers(0, 256, (40, PIXELS, PIXELS, 3), dtype=np.uint8)
    return BaseCorpus(images, np.array([detail_indices(b) for b in blazons]), blazons, "noise")


@pytest.fixture(scope="module")
def conversations(corpus: BaseCorpus) -> Conversations:
    return Conversations(corpus)


def decode_replies(conversations: Conversations, batch) -> list[str]:
    """Decodes the labels."""
    return [conversations.tokenizer.decode(row[row != -100]) for row in batch.labels]


def decode_prompts(conversations: Conversations, batch) -> list[str]:
    """Decodes the text between the image and the answer."""
    texts = conversations.tokenizer.batch_decode(batch.ids)
    return [text.split("<image>\n")[-1].split(" ASSISTANT:")[0] for text in texts]


def parse_candidates(prompt: str) -> list[str]:
    return [line.split(". ", 1)[1] for line in prompt.split("\n")[1:-1]]


def parse_blazon(name: str) -> Blazon:
    """Parses a name into its blazon."""
    tinctures, words = "|".join(TINCTURES), "|".join(COUNT_WORDS.values())
    pattern = (
        rf"(?:(?P<division>{'|'.join(DIVISIONS)}) )?(?P<field>{tinctures})(?: and (?P<field2>{tinctures}))?, "
        rf"a (?P<ordinary>.+) (?P<ordinary_tincture>{tinctures}), "
        rf"(?P<count>{words}) (?P<charge>\w+?)s? (?P<charge_tincture>{tinctures})"
    )
    details = re.fullmatch(pattern, name).groupdict()
    count = next(count for count, word in COUNT_WORDS.items() if word == details["count"])
    details |= {"count": count, "division": details["division"] or "plain", "field2": details["field2"] or ""}
    return Blazon(**details)


def test_naming_asks_for_the_name(corpus, conversations):
    batch = conversations.naming(ROWS)
    assert decode_replies(conversations, batch) == [f" {corpus.blazons[row].name}</s>" for row in ROWS]
    assert decode_prompts(conversations, batch) == [NAMING] * len(ROWS)
    assert (batch.ids == nano_config().image_token_id).sum(1).tolist() == [TOKENS] * len(ROWS)


def test_letters_ask_for_the_letter_of_the_truth_among_base_candidates(corpus, conversations):
    batch = conversations.letters(ROWS, np.random.default_rng(0))
    counts = set()
    for row, prompt, reply in zip(
        ROWS, decode_prompts(conversations, batch), decode_replies(conversations, batch), strict=True
    ):
        names = parse_candidates(prompt)
        assert prompt == letters_prompt(names)
        assert len(set(names)) == len(names)
        assert {owning_split(name) for name in names} == {"base"}
        assert reply == f" {LETTERS[names.index(corpus.blazons[row].name)]}</s>"
        counts.add(len(names))
    assert counts <= set(range(3, 8)) and len(counts) > 1


def test_the_probes_are_at_each_detail_and_at_each_candidates_end(corpus, conversations):
    batch = conversations.letters(ROWS, np.random.default_rng(0))
    listed = [(n, name) for n, p in enumerate(decode_prompts(conversations, batch)) for name in parse_candidates(p)]
    assert len(listed) == len(batch.ends) == len(batch.true)
    words = iter(zip(batch.words.tolist(), batch.shown.tolist(), strict=True))
    for (row, name), (at_row, at), true in zip(listed, batch.ends.tolist(), batch.true, strict=True):
        truth = corpus.blazons[ROWS[row]]
        assert at_row == row
        assert conversations.tokenizer.decode(batch.ids[row, : at + 1]).endswith(f". {name}\n")
        assert true == (name == truth.name)
        text_so_far = ""
        candidate = parse_blazon(name)
        for text, details in candidate.phrases:
            (word_row, word), shown = next(words)
            text_so_far += text
            assert word_row == row
            assert conversations.tokenizer.decode(batch.ids[row, : word + 1]).endswith(f". {text_so_far}")
            assert shown == all(getattr(candidate, d) == getattr(truth, d) for d in details)
    assert next(words, None) is None


def test_sorting_asks_for_all_candidates_with_the_truth_first(corpus, conversations):
    batch = conversations.sorting(ROWS, np.random.default_rng(0))
    for row, prompt, reply in zip(
        ROWS, decode_prompts(conversations, batch), decode_replies(conversations, batch), strict=True
    ):
        names = reply.removesuffix("</s>").strip()[2:-2].split("', '")
        assert reply == f" {list_answer(names)}</s>"
        assert names[0] == corpus.blazons[row].name
        assert read_list(reply, names).order == tuple(range(len(names)))
        shown = prompt.split("categories:[")[1]
        assert all(repr(name) in shown for name in names) and prompt.count("', '") == len(names) - 1
        assert prompt.split("[")[0] == list_prompt(names).split("[")[0]


def test_training_texts_are_those_of_the_chat_template_and_prompts(conversations):
    mllm = Mllm(torch.nn.Module(), nano_processor(), FAMILIES["llava"], "unused")
    batch = conversations.naming(ROWS[:3])
    names = [conversations.corpus.blazons[row].name for row in ROWS[:3]]
    images = [Image.fromarray(conversations.corpus.images[row]) for row in ROWS[:3]]
    served = mllm.labelled(images, [NAMING] * 3, names)
    assert torch.equal(served["input_ids"], batch.ids) and torch.equal(served["labels"], batch.labels)
    torch.testing.assert_close(served["pixel_values"], to_pixel_values(conversations.corpus.images[:3]))


def test_the_training_forward_pass_equals_the_models(corpus, conversations, nano):
    """Cached tower features and embedded images give the same loss as the full model."""
    features = tower_features(nano.model.model.vision_tower, corpus)
    module = LanguageModule(nano.model, features, corpus, None).eval()
    batch = conversations.naming(ROWS[:4])
    with torch.no_grad():
        loss, _, _ = module(batch, ROWS[:4])
        full_loss = nano.model(
            input_ids=batch.ids,
            attention_mask=(batch.ids != 0).long(),
            pixel_values=to_pixel_values(corpus.images[ROWS[:4]]),
            labels=batch.labels,
        ).loss
    torch.testing.assert_close(loss, full_loss, rtol=1e-2, atol=1e-2)  # features are cached in half precision


def test_wrong_candidates_differ_mostly_in_one_or_two_details(corpus):
    rng = np.random.default_rng(0)
    changes = []
    for truth in corpus.blazons * 5:
        other = sample_hard_negative(truth, rng)
        assert other != truth and other.is_visible and owning_split(other.name) == "base"
        changes.append(np.not_equal(detail_indices(other), detail_indices(truth)).sum())
    assert min(changes) == 1
    assert np.mean(np.array(changes) <= 2) > 0.6


def test_the_projector_is_initialized_with_the_towers_classifiers(corpus):
    model = LlavaForConditionalGeneration(nano_config())
    tower = TowerModule(model.model.vision_tower, corpus, NanoArgs()).eval()
    init_projector(model, tower)
    tokens = torch.randn(2, TOKENS, nano_config().vision_config.hidden_size)
    first = model.model.multi_modal_projector.linear_1(tokens)
    logits = torch.cat([head(tokens) for head in tower.heads], -1)
    torch.testing.assert_close(first[..., : logits.shape[-1]], logits)


def test_random_batches_repeat_for_a_seed_and_hold_distinct_rows():
    def first(seed: int) -> list[list[int]]:
        return [rows.tolist() for rows, _ in zip(RandomBatches(20, 8, seed), range(5))]

    assert first(0) == first(0) != first(1)
    assert all(len(set(rows)) == 8 and set(rows) <= set(range(20)) for rows in first(0))


def test_the_model_is_small():
    model = LlavaForConditionalGeneration(nano_config())
    assert sum(parameter.numel() for parameter in model.parameters()) < 3e6


def test_the_shipped_files_match_their_manifest():
    manifest = read_json(NANO_MLLM / "manifest.json")
    present = {path.name for path in NANO_MLLM.iterdir()} - {"manifest.json"}
    assert manifest["files"] == {name: file_hash(NANO_MLLM / name) for name in present}


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def recipe(request, nano_cache, tmp_path) -> Recipe:
    settings = (
        f"recipe=nano_mllm trainer.accelerator={request.param} nano.thousands=2 nano.tower_steps=2 nano.tower_batch=8 "
        f"nano.language_steps=2 nano.naming=4 nano.letters=4 nano.sorting=2 cache={nano_cache}"
    )
    return load_recipe([*settings.split(), f"out={tmp_path / 'run'}"])


def test_training_saves_a_model_that_loads_and_its_measured_accuracies(recipe, pictures, monkeypatch, caplog):
    for module in ("mllm", "tower"):  # to measure on fewer images
        monkeypatch.setattr(f"rar_train.nano.{module}.HELD_OUT", 100)
    folder = train_nano_mllm(recipe)
    mllm = load_mllm(RankerArgs(model=str(folder)))
    loss = mllm.model(**mllm.labelled(pictures[:1], [NAMING], ["azure"])).loss
    assert loss.isfinite()
    manifest = read_json(folder / "manifest.json")
    assert set(manifest["measured"]["detail_accuracy"]) == set(DETAILS)
    assert 0 <= manifest["measured"]["letter_accuracy"] <= 1
    assert manifest["files"]["model.safetensors"] == file_hash(folder / "model.safetensors")

    # The trained tower is cached: another model loads its weights from there.
    other = LlavaForConditionalGeneration(nano_config())
    train_tower(recipe, other, base_corpus(Path(recipe.cache), 2, PIXELS, 0))
    cached, loaded = other.model.vision_tower.state_dict(), mllm.model.model.vision_tower.state_dict()
    assert all(torch.equal(cached[name], loaded[name]) for name in loaded)
    (weights,) = Path(recipe.cache).glob("nano-tower-*/tower.safetensors")
    damage(weights, "flipped")
    train_tower(recipe, other, base_corpus(Path(recipe.cache), 2, PIXELS, 0))
    assert "tower.safetensors: damaged" in caplog.text and is_complete(weights.parent)
