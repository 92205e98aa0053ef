"""Encoders of timm: pooled features with the model's own preprocessing, and weights that are named."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import normalize

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.embedding.encoder import embed_images, embed_names, load_encoder
from data_prep.settings import RetrieverArgs, TrainerArgs
from tests.tiny_encoders import SIZE, picture, write_timm

CPU = TrainerArgs(accelerator="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "timm"
    write_timm(folder)
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    paths = [tmp_path_factory.getbasetemp() / f"timm-{seed}.png" for seed in range(5)]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    return [Sample(path.stem, str(path), 0, file_hash(path)) for path in paths]


def test_vectors_are_the_models_pooled_features_of_its_own_preprocessing(folder, samples, tmp_path):
    args = RetrieverArgs(model=f"timm:{folder}", batch_size=2)
    vectors = embed_images(load_encoder(args, CPU), samples, args, tmp_path)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    resized = [np.asarray(Image.open(sample.path).resize((SIZE * 5 // 4, SIZE), Image.BICUBIC)) for sample in samples]
    crops = np.stack([image[:, SIZE // 8 :][:, :SIZE] for image in resized]) / 255
    pixels = torch.from_numpy((crops - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = normalize(model(pixels), dim=-1).numpy()
    assert vectors.shape == (5, 32) and vectors == pytest.approx(expected, abs=1e-5)


def test_an_encoder_is_identified_by_weights_and_preprocessing_and_can_be_pickled(folder, tmp_path):
    encoder = load_encoder(RetrieverArgs(model=f"timm:{folder}"), CPU)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load_encoder(RetrieverArgs(model=f"timm:{moved}"), CPU).id == encoder.id
    config = (moved / "config.json").read_text()
    (moved / "config.json").write_text(config.replace("0.4", "0.45", 1))
    assert load_encoder(RetrieverArgs(model=f"timm:{moved}"), CPU).id != encoder.id
    (moved / "config.json").write_text(config)
    write_half_as_large = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    save_file({key: value / 2 for key, value in write_half_as_large.items()}, moved / "model.safetensors")
    assert load_encoder(RetrieverArgs(model=f"timm:{moved}"), CPU).id != encoder.id
    again = pickle.loads(pickle.dumps(encoder))
    pixels = encoder.preprocess(picture())[None]
    assert torch.equal(again.encode_images(pixels), encoder.encode_images(pixels)) and again.id == encoder.id


def test_it_has_no_names(folder, tmp_path):
    args = RetrieverArgs(model=f"timm:{folder}")
    with pytest.raises(UserError, match=rf"retriever\.model=timm:{folder} embeds images alone"):
        embed_names(load_encoder(args, CPU), ["a lynx"], args, tmp_path)


def test_a_file_of_weights_is_loaded_with_the_preprocessing_of_its_tag(tmp_path):
    (tag,) = [name.partition(".")[2] for name in timm.list_pretrained("test_vit.*")]
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    weights = str(tmp_path / "weights.safetensors")
    encoders = [
        load_encoder(RetrieverArgs(model=f"timm:{name}", pretrained=weights, tag=given), CPU)
        for name, given in (("test_vit", None), ("test_vit", tag), (f"test_vit.{tag}", None))
    ]
    assert len({encoder.id for encoder in encoders}) == 1
    size = timm.get_pretrained_cfg(f"test_vit.{tag}").input_size
    assert encoders[0].preprocess(picture()).shape == size
    del (state := model.state_dict())["blocks.0.norm1.weight"]
    save_file(state, weights)
    with pytest.raises(UserError, match=r"1 weights are missing there, such as blocks\.0\.norm1\.weight"):
        load_encoder(RetrieverArgs(model="timm:test_vit", pretrained=weights), CPU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "timm:resnet18"}, r"needs retriever\.pretrained: one of a1_in1k, "),
        ({"model": "timm:resnet81"}, "unknown to timm; similar names are resnet18"),
        ({"model": "timm:resnet18", "pretrained": "lvd142m"}, "neither a file nor a tag of it; give one of a1_in1k"),
        ({"model": "timm:resnet18.a1_in1k", "pretrained": "a2_in1k"}, "two tags are given, a1_in1k and a2_in1k"),
        ({"model": "timm:resnet18", "tag": "a1_in1k"}, "applies only to a file of weights"),
        ({"model": "timm:vit_base_patch16_224", "pretrained": __file__}, "the file does not say how its weights were"),
        ({"model": "timm:OWNER/NAME", "pretrained": "x"}, "includes its own weights; leave it out"),
        ({"model": "timm:nowhere/at-all"}, "could not be loaded"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_random(settings, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        load_encoder(RetrieverArgs(**settings), CPU)
