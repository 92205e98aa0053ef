"""Encoders of transformers: features as direct calls give them, with the texts' preprocessing of the training."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.embedding.encoder import embed_images, embed_names, load_encoder
from data_prep.embedding.transformers_encoder import TextInputs
from data_prep.settings import RetrieverArgs, TrainerArgs
from tests.tiny_encoders import make_tokenizer, picture, write_open_clip, write_transformers

CPU = TrainerArgs(accelerator="cpu")
KINDS = ("siglip", "siglip2", "metaclip_2", "clip", "tipsv2")
NAMES = ["a lynx", "azure, a bend or", "gules"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models and processors by kind, each written to a folder of that name."""
    folder = tmp_path_factory.mktemp("models")
    return folder, {kind: write_transformers(kind, folder / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    paths = [tmp_path_factory.getbasetemp() / f"hf-{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    return [Sample(path.stem, str(path), 0, file_hash(path)) for path in paths]


def features(output: torch.Tensor | object) -> np.ndarray:
    values = output if isinstance(output, torch.Tensor) else output.pooler_output
    return normalize(values, dim=-1).numpy()


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_vectors_equal_direct_calls_with_the_models_own_processor(kind, models, samples, tmp_path):
    folder, (model, processor) = models[0] / kind, models[1][kind]
    args = RetrieverArgs(model=f"hf:{folder}", batch_size=2)
    encoder = load_encoder(args, CPU)
    images = processor(images=[picture(seed) for seed in range(3)], return_tensors="pt")
    expected = features(model.get_image_features(**images))
    assert embed_images(encoder, samples, args, tmp_path) == pytest.approx(expected, abs=1e-5)
    padding = {"padding": True} if kind in ("clip", "metaclip_2") else {"padding": "max_length", "max_length": 64}
    texts = processor(text=NAMES, return_tensors="pt", **padding)
    keys = {"input_ids"} if kind.startswith("siglip") else {"input_ids", "attention_mask"}
    expected = features(model.get_text_features(**{key: texts[key] for key in keys}))
    assert embed_names(encoder, NAMES, args, tmp_path) == pytest.approx(expected, abs=1e-5)


@torch.inference_mode()
def test_siglip_reads_texts_in_lower_case_padded_to_64_without_a_mask(models, tmp_path):
    folder, (model, processor) = models[0] / "siglip", models[1]["siglip"]
    args = RetrieverArgs(model=f"hf:{folder}")
    encoder = load_encoder(args, CPU)
    by_case = embed_names(encoder, ["Azure, A Bend Or", "azure, a bend or"], args, tmp_path)
    assert (by_case[0] == by_case[1]).all()
    tokens = processor(text=["azure, a bend or"], return_tensors="pt", padding="max_length", max_length=64)
    assert encoder.tokenize(["azure, a bend or"]).keys() == {"input_ids"}
    assert encoder.tokenize(["Azure, a bend or"])["input_ids"].tolist() == tokens["input_ids"].tolist()
    short = processor(text=["azure, a bend or"], return_tensors="pt")
    for wrong in ({"input_ids": short["input_ids"]}, dict(tokens)):
        assert features(model.get_text_features(**wrong)) != pytest.approx(by_case[:1], abs=1e-3)
    similarity = (encoder.encode_images(encoder.preprocess(picture())[None]) @ torch.from_numpy(by_case[1])).item()
    pixels = processor(images=picture(), return_tensors="pt")["pixel_values"]
    logit = model(input_ids=tokens["input_ids"], pixel_values=pixels).logits_per_image.item()
    assert (logit - model.logit_bias.item()) / model.logit_scale.exp().item() == pytest.approx(similarity, abs=1e-5)


def test_tokens_are_those_of_open_clips_tokenizer_for_siglip_2(tmp_path):
    """Both libraries lower the case and pad to 64; open_clip also removes punctuation."""
    model = write_open_clip("siglip2", tmp_path / "open_clip")
    reference = open_clip.get_tokenizer(model)
    tokenize = TextInputs(make_tokenizer(), 64, "siglip")
    texts = ["A photo of a Lynx", "azure a bend or", "long " * 100]
    assert tokenize(texts)["input_ids"].tolist() == reference(texts).tolist()


def test_truncated_and_identical_names_are_reported(models, tmp_path, caplog):
    args = RetrieverArgs(model=f"hf:{models[0] / 'siglip'}")
    embed_names(load_encoder(args, CPU), ["lynx " * 100, "Lynx", "lynx", "manul"], args, tmp_path)
    assert "names: 1 of 4 names are longer than the 64 tokens" in caplog.text
    assert "names: 2 different names have the same embedding as another" in caplog.text and "'Lynx'" in caplog.text


def test_an_encoder_is_identified_by_its_content_and_can_be_pickled(models, tmp_path):
    folder = models[0] / "metaclip_2"
    encoder = load_encoder(RetrieverArgs(model=f"hf:{folder}"), CPU)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load_encoder(RetrieverArgs(model=f"hf:{moved}"), CPU).id == encoder.id
    other = RetrieverArgs(model=f"hf:{moved}", dtype="bfloat16")
    half = load_encoder(other, CPU)
    assert half.id != encoder.id and half.encode_texts(NAMES).dtype == torch.float32
    weights = load_file(moved / "model.safetensors")
    weights["visual_projection.weight"] *= 2
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    assert load_encoder(RetrieverArgs(model=f"hf:{moved}"), CPU).id != encoder.id
    again = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(again.encode_texts(NAMES), encoder.encode_texts(NAMES))


def test_missing_weights_are_refused(models, tmp_path):
    folder = shutil.copytree(models[0] / "siglip", tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    del weights["text_model.head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of its weights, such as text_model\.head\.weight"):
        load_encoder(RetrieverArgs(model=f"hf:{folder}"), CPU)


def test_pickled_weights_and_a_models_own_code_are_not_loaded(models, tmp_path):
    folder = shutil.copytree(models[0] / "clip", tmp_path / "pickled")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="only safetensors are read"):
        load_encoder(RetrieverArgs(model=f"hf:{folder}"), CPU)
    folder = shutil.copytree(models[0] / "clip", tmp_path / "code")
    config = (folder / "config.json").read_text()
    remote = '"auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}, "model_type": "own"'
    (folder / "config.json").write_text(config.replace('"model_type": "clip"', remote))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')")
    with pytest.raises(UserError, match=r"retriever\.trust_remote_code=true"):
        load_encoder(RetrieverArgs(model=f"hf:{folder}"), CPU)
    assert not (tmp_path / "was-run").exists()


def test_a_model_without_features_of_images_is_refused(tmp_path):
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=400, **size)).save_pretrained(tmp_path / "bert")
    make_tokenizer().save_pretrained(tmp_path / "bert")
    write_transformers("clip", tmp_path / "clip")
    shutil.copy(tmp_path / "clip" / "processor_config.json", tmp_path / "bert")
    with pytest.raises(UserError, match="BertModel has no get_image_features and get_text_features"):
        load_encoder(RetrieverArgs(model=f"hf:{tmp_path / 'bert'}"), CPU)
    with pytest.raises(UserError, match="includes its own weights; leave it out"):
        load_encoder(RetrieverArgs(model=f"hf:{tmp_path / 'clip'}", pretrained="x"), CPU)
