"""A tiny lite-mllm: a LLaVA joined from a language model and a timm tower, which the Auto classes load."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import NAMING, letters_prompt
from data_prep.settings import RankerArgs
from rar_train.lite.mllm import join_models, tower_classifier, tower_config
from rar_train.models.loading import load_mllm
from rar_train.projector.name_projector import calibrate
from tests.rar_train.conftest import NAMES, llava_processor

TOWER = "tf_efficientnet_lite0"
TOKENS = 6


def tiny_join(pixels: int = 64, stage: int = 4):
    tokenizer = llava_processor([letters_prompt(NAMES[:5]), NAMING, "user\nassistant\n"]).tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    language = LlamaForCausalLM(config)
    weights = timm.create_model(TOWER, pretrained=False).state_dict()
    return *join_models(language, tokenizer, tower_config(stage), weights, pixels, TOKENS), language, weights


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple:
    model, processor, language, weights = tiny_join()
    model.set_names([[7, 8, 9], [7, 5]], fill=6)
    folder = tmp_path_factory.mktemp("lite") / "lite-mllm"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor, language, weights


def test_the_auto_classes_load_what_was_saved(saved):
    folder, model, processor, *_ = saved
    reloaded = AutoModelForImageTextToText.from_pretrained(folder).eval()
    images, text = [Image.new("RGB", (50, 70), "red")], "<|im_start|>user\n<image>\nWhat?<|im_end|>\n"
    inputs = AutoProcessor.from_pretrained(folder)(images=images, text=text, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == model.config.image_seq_length == TOKENS
    expected = processor(images=images, text=text, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(reloaded(**inputs).logits, model(**expected).logits, atol=1e-5)


def test_it_keeps_the_weights_of_the_language_model_and_tower(saved):
    _, model, _, language, weights = saved
    text = model.model.language_model.state_dict()
    assert all(torch.equal(text[name], value) for name, value in language.model.state_dict().items())
    tower = model.model.vision_tower.backbone.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in tower.items())


def test_the_backend_loads_it_as_a_llava(saved: tuple[Path]):
    mllm = load_mllm(RankerArgs(model=str(saved[0])))
    assert mllm.turn_end == "<|im_end|>"
    image = Image.new("RGB", (64, 64), "blue")
    batch = mllm.labelled([image], [NAMING], [NAMES[0]])
    labels = batch["labels"][0]
    assert tuple(labels[labels != -100].tolist()) == mllm.answer_ids(NAMING, NAMES[0])
    assert mllm.processor.tokenizer.decode(labels[labels != -100]).strip() == f"{NAMES[0]}<|im_end|>"
    assert mllm.letter_ids(5)


def test_image_tokens_spell_the_likeliest_name_and_pad_after_it():
    model, *_ = tiny_join()
    names = [[7, 8, 9], [7, 5], list(range(10, 20))]
    model.set_names(names, fill=6)
    projector, embeddings = model.model.multi_modal_projector, model.get_input_embeddings().weight
    maps = torch.randn(2, 4, model.config.vision_config.hidden_size)
    for index, ids in enumerate(names):
        with torch.no_grad():
            for reader in projector.readers:
                reader.head.weight.zero_()
                reader.head.bias.copy_(torch.eye(3)[index] * 100)
            spelt = projector(maps)
        expected = (ids + [6] * TOKENS)[:TOKENS]
        assert torch.allclose(spelt, embeddings[expected].expand(2, -1, -1), atol=1e-5)


@pytest.mark.parametrize(("sharpness", "first"), [(1.0, 0.75), (4.0, 81 / 82)])
def test_uncertain_names_are_mixed(sharpness, first):
    model, *_ = tiny_join()
    model.set_names([[7], [8]], fill=6)
    projector, embeddings = model.model.multi_modal_projector, model.get_input_embeddings().weight
    with torch.no_grad():
        for reader in projector.readers:
            reader.head.weight.zero_()
            reader.head.bias.copy_(torch.tensor([0.75, 0.25]).log())
        projector.sharpness = sharpness
        spelt = projector(torch.randn(1, 4, model.config.vision_config.hidden_size))[0, 0]
    assert torch.allclose(spelt, first * embeddings[7] + (1 - first) * embeddings[8], atol=1e-5)


def test_evaluation_averages_all_readers_and_training_the_less_certain_half():
    model, *_ = tiny_join()
    model.set_names([[7], [8]], fill=6)
    projector = model.model.multi_modal_projector
    shares = [0.9, 0.3, 0.6, 0.8]  # the third is least certain, then the second
    with torch.no_grad():
        for reader, share in zip(projector.readers, shares, strict=True):
            reader.head.weight.zero_()
            reader.head.bias.copy_(torch.tensor([share, 1 - share]).log())
        maps = torch.randn(2, 4, model.config.vision_config.hidden_size)
        in_eval, in_training = (projector.train(mode).log_shares(maps).exp() for mode in (False, True))
    assert torch.allclose(in_eval, torch.tensor([0.65, 0.35]).expand(2, -1))
    assert torch.allclose(in_training, torch.tensor([0.45, 0.55]).expand(2, -1))


def test_the_projector_uses_positions_in_the_map():
    model, *_ = tiny_join()
    model.set_names([[7], [8]], fill=6)
    projector = model.model.multi_modal_projector.eval()
    maps = torch.randn(1, 4, model.config.vision_config.hidden_size)
    with torch.no_grad():
        reversed_logits = projector.name_logits(maps.flip(1))
        assert not torch.allclose(projector.name_logits(maps), reversed_logits, atol=1e-3)


def test_a_finer_map_has_more_positions_and_its_stride_must_divide_the_image():
    model, *_ = tiny_join(stage=3)
    assert model.config.projector_places == 16
    with pytest.raises(UserError, match="pixels=72: must be a multiple of the stride, 32"):
        tiny_join(pixels=72)


def photo_join(slots: int = 1, classes: int = 1000):
    """A tiny model whose tower brings its own classifier, and that classifier's weights."""
    tokenizer = llava_processor([letters_prompt(NAMES[:5]), NAMING, "user\nassistant\n"]).tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    full = timm.create_model(TOWER, pretrained=False, num_classes=classes).eval()
    weights = full.state_dict()
    tower = tower_config(4)
    model, processor = join_models(LlamaForCausalLM(config), tokenizer, tower, weights, 64, TOKENS, slots)
    model.set_classifier([[7 + n % 9, 9] for n in range(classes)], fill=6, classifier=tower_classifier(weights))
    return model, processor, full


def test_the_towers_own_classifier_reads_as_the_full_network_does():
    model, _, full = photo_join()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = model.model.vision_tower(pixels).last_hidden_state
        expected = full(pixels).log_softmax(-1)
        assert torch.allclose(model.model.multi_modal_projector.classifier(maps), expected, atol=1e-4)


def test_an_image_of_no_learned_name_is_read_by_the_classifier_and_a_reader_does_not_know_withheld_names():
    model, *_ = photo_join(classes=3)
    model.set_names([[7], [8], [9], [10], [11]], fill=6)
    projector = model.model.multi_modal_projector.eval()
    maps = torch.randn(4, 4, model.config.vision_config.hidden_size)
    with torch.no_grad():
        assert torch.allclose(projector.log_shares(maps).exp().sum(1), torch.ones(4))
        for reader in projector.readers:
            reader.head.weight.zero_()
            reader.head.bias.copy_(torch.tensor([0.0, 50.0, 0.0, 0.0, 0.0]))
        shares = projector.log_shares(maps).exp()
        # The second name is withheld from one of four readers.
        assert torch.allclose(shares[:, 4], torch.full((4,), 0.75), atol=1e-5)
        projector.none.fill_(100)
        assert torch.allclose(projector.log_shares(maps)[:, :3], projector.classifier(maps), atol=1e-5)


def test_in_training_one_reader_reads_an_image_and_always_the_same():
    model, *_ = photo_join(classes=3)
    model.set_names([[7], [8]], fill=6)
    projector = model.model.multi_modal_projector.train()
    maps = torch.randn(40, 4, model.config.vision_config.hidden_size)
    with torch.no_grad():
        for index, reader in enumerate(projector.readers):
            reader.head.weight.zero_()
            reader.head.bias.fill_(-float(index))
        shares = projector.log_shares(maps)
        assert len(shares.amax(1).round(decimals=3).unique()) > 1
        assert torch.equal(projector.log_shares(maps[7:9]), shares[7:9])


@pytest.mark.parametrize(
    ("shares", "spelt"), [([0.9, 0.06, 0.04], "aaa"), ([0.5, 0.3, 0.2], "aba"), ([0.4, 0.35, 0.25], "abc")]
)
def test_slots_are_distributed_among_names_by_their_shares(shares, spelt):
    model, *_ = photo_join(slots=3)
    projector = model.model.multi_modal_projector
    chosen = projector._spelled(torch.tensor([shares]).log())[0]
    assert "".join("abc"[index] for index in chosen) == spelt


def test_a_model_with_classifier_and_slots_is_saved_and_loaded(tmp_path):
    model, processor, _ = photo_join(slots=2, classes=5)
    model.set_names([[7, 8, 9], [7, 5]], fill=6)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    maps = torch.randn(2, 4, model.config.vision_config.hidden_size)
    with torch.no_grad():
        tokens = model.eval().model.multi_modal_projector(maps)
        assert tokens.shape == (2, TOKENS, 32)
        assert torch.allclose(loaded.model.multi_modal_projector(maps), tokens, atol=1e-5)


def test_how_sure_a_reader_must_be_is_fitted_without_dropout():
    torch.manual_seed(0)
    model, *_ = photo_join(classes=3)
    model.set_names([[7], [8], [9], [10]], fill=6)
    projector, fitted = model.model.multi_modal_projector, []
    maps = torch.randn(1, 40, 4, model.config.vision_config.hidden_size)
    rows = SimpleNamespace(maps=maps, labels=[row % 4 for row in range(40)], folds=list(range(40)))
    for training in (True, False):
        projector.train(training)
        calibrate(projector, SimpleNamespace(rows={"train": rows}))
        fitted.append(torch.cat([projector.scale, projector.none]).clone())
    assert torch.equal(*fitted) and fitted[0].isfinite().all()
