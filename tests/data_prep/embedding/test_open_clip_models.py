"""open_clip models: weights run with the activation and preprocessing of their training, or are refused."""

from __future__ import annotations

import copy
import json
import shutil

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from data_prep.core.errors import UserError
from data_prep.core.manifests import seal_folder
from data_prep.embedding.encoder import NANO_CLIP, load_encoder
from data_prep.embedding.open_clip_models import architecture, load_open_clip, training_setup
from data_prep.settings import RetrieverArgs
from data_prep.settings.loading import load_recipe
from rar_train.models.open_clip_folder import write_open_clip

PAIRS = open_clip.list_pretrained()
_VISION = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
_TEXT = {"context_length": 77, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Replaces every model of open_clip's list by one with small towers, and hub weights by a local file."""
    configs = copy.deepcopy(open_clip.factory._MODEL_CONFIGS)
    for config in configs.values():
        config |= {"embed_dim": 16, "vision_cfg": dict(_VISION), "text_cfg": dict(_TEXT)}
        config.pop("multimodal_cfg", None)
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
    files = {}
    for custom in (False, True):
        files[custom] = tmp_path / f"weights-{custom}.pt"
        model = open_clip.create_model("ViT-B-16", force_custom_text=custom)
        torch.save(model.state_dict(), files[custom])
    downloaded = {"file": files[False]}
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(downloaded["file"]))
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: open_clip.tokenizer._tokenizer)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def choose(name: str) -> str:
        downloaded["file"] = files[bool(configs[name].get("custom_text"))]
        return str(downloaded["file"])

    return choose


def is_quick(model: torch.nn.Module) -> bool:
    return any(type(module).__name__ == "QuickGELU" for module in model.modules())


def transforms(entry: dict, size: int = 32) -> list[str]:
    """Returns the training and the inference transform that an entry of open_clip's list specifies."""
    settings = {key: entry[key] for key in ("interpolation", "resize_mode")}
    settings |= {key: list(entry[key]) for key in ("mean", "std")}
    cfg = PreprocessCfg(size=size, **settings)
    return [transform_repr(image_transform_v2(cfg, is_train=train)) for train in (True, False)]


def transform_repr(transform) -> str:
    """Returns a transform's repr with lists as tuples: open_clip has means as either, depending on their source."""
    return repr(transform).translate(str.maketrans("[]", "()"))


@pytest.mark.parametrize("as_file", [False, True])
def test_every_tag_and_every_file_that_follows_it_has_its_activation_and_transforms(tiny, as_file):
    quick = 0
    for name, tag in PAIRS:
        entry, file = open_clip.get_pretrained_cfg(name, tag), tiny(name)
        args = (
            RetrieverArgs(model=name, pretrained=file, tag=tag)
            if as_file
            else RetrieverArgs(model=name, pretrained=tag)
        )
        model, augment, preprocess, _ = load_open_clip(args)
        # Without an activation in the entry the architecture decides; only roberta-ViT-B-32's is QuickGELU then.
        by_name = open_clip.get_model_config(name).get("quick_gelu", False)
        assert is_quick(model) == entry.get("quick_gelu", by_name), (name, tag)
        assert [transform_repr(augment), transform_repr(preprocess)] == transforms(entry), (name, tag)
        quick += is_quick(model) and not by_name
    assert quick == 27


def test_openais_clip_runs_with_quick_gelu_under_every_spelling(tiny):
    tiny("ViT-B-16")
    for tag in ("openai", "OpenAI", "metaclip-400m"):
        assert is_quick(load_open_clip(RetrieverArgs(model="ViT-B-16", pretrained=tag))[0])
    assert is_quick(load_open_clip(load_recipe(["recipe=rar_paper"]).retriever)[0])
    assert not is_quick(load_open_clip(RetrieverArgs(model="ViT-B-16", pretrained="laion2b_s34b_b88k"))[0])


def test_a_file_is_loaded_like_the_tags_of_its_model_where_they_agree(tiny, caplog):
    caplog.set_level("INFO", "data_prep")
    args = RetrieverArgs(model="ViT-B-16-SigLIP", pretrained=tiny("ViT-B-16-SigLIP"))
    _, augment, preprocess, _ = load_open_clip(args)
    assert [transform_repr(augment), transform_repr(preprocess)] == transforms(
        open_clip.get_pretrained_cfg("ViT-B-16-SigLIP", "webli")
    )
    assert "was trained like webli (GELU, mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5, bicubic, squash)" in caplog.text
    assert is_quick(load_open_clip(RetrieverArgs(model="RN50", pretrained=tiny("RN50")))[0])
    default = RetrieverArgs(model="RN50", pretrained=tiny("RN50"), tag="default")
    model, _, preprocess, _ = load_open_clip(default)
    assert not is_quick(model) and transform_repr(preprocess) == transforms(vars(PreprocessCfg()))[1]


def test_a_file_of_a_model_whose_tags_differ_is_refused_without_its_tag(tiny):
    file = tiny("ViT-L-14")
    with pytest.raises(UserError) as caught:
        load_open_clip(RetrieverArgs(model="ViT-L-14", pretrained=file))
    message = str(caught.value)
    assert "Set retriever.tag to the open_clip tag" in message and "or to default" in message
    assert "QuickGELU, mean 0.481 0.458 0.408, deviation 0.269 0.261 0.276, bicubic, shortest: openai, " in message
    assert "GELU, mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5, bicubic, shortest: laion2b_s32b_b82k" in message
    assert not is_quick(load_open_clip(RetrieverArgs(model="ViT-L-14", pretrained=file, tag="default"))[0])


def test_an_error_of_a_failed_download_says_how_to_name_a_local_copy(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"retriever\.pretrained=PATH .* with retriever\.tag=openai, or"):
        load_open_clip(RetrieverArgs(model="ViT-B-16", pretrained="openai"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "ViT-B-16", "pretrained": "openai", "tag": "openai"}, "applies only to a file of weights"),
        ({"model": "nano-clip", "tag": "openai"}, "applies only to a file of weights"),
        ({"model": "ViT-B-16", "pretrained": "FILE", "tag": "opnai"}, "ViT-B-16 has openai, .*, default"),
        ({"model": "ViT-S-32-alt", "pretrained": "FILE", "tag": "openai"}, "ViT-S-32-alt has default"),
    ],
)
def test_an_unknown_or_inapplicable_tag_is_refused(settings, message, tmp_path):
    with pytest.raises(UserError, match=rf"retriever\.tag=\w+: {message}"):
        training_setup(RetrieverArgs(**settings))


def test_the_same_weights_are_the_same_encoder_wherever_they_are_stored(tiny, monkeypatch, tmp_path):
    """Covers relative and absolute paths, a tag and its file, and a folder that was moved."""
    file = tiny("ViT-B-16")
    by_tag = load_encoder(RetrieverArgs(model="ViT-B-16", pretrained="openai"))
    by_file = load_encoder(RetrieverArgs(model="ViT-B-16", pretrained=file, tag="openai"))
    assert by_tag.id == by_file.id
    assert load_encoder(RetrieverArgs(model="ViT-B-16", pretrained=file, tag="default")).id != by_tag.id
    for folder in ("one", "two"):
        shutil.copytree(NANO_CLIP, tmp_path / folder)
    monkeypatch.undo()  # back to the real architectures
    monkeypatch.chdir(tmp_path)
    ids = [load_encoder(RetrieverArgs(model=f"local-dir:{folder}")).id for folder in ("one", tmp_path / "one", "two")]
    assert len(set(ids)) == 1
    tokenizer = json.loads((tmp_path / "two" / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["o"], vocabulary["e"] = vocabulary["e"], vocabulary["o"]
    (tmp_path / "two" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_encoder(RetrieverArgs(model="local-dir:two")).id != ids[0], "other token ids: another encoder"


def test_a_saved_folder_keeps_activation_and_preprocessing_and_detects_damage(tiny, tmp_path):
    tiny("ViT-B-16")
    args = RetrieverArgs(model="ViT-B-16", pretrained="openai")
    model = load_open_clip(args)[0]
    folder = tmp_path / "model"
    folder.mkdir()
    write_open_clip(folder, model, architecture(args, model), dict(model.visual.preprocess_cfg), None)
    seal_folder(folder, {})
    local = RetrieverArgs(model=f"local-dir:{folder}")
    reloaded, augment, preprocess, _ = load_open_clip(local)
    assert is_quick(reloaded)
    assert [transform_repr(augment), transform_repr(preprocess)] == transforms(
        open_clip.get_pretrained_cfg("ViT-B-16", "openai")
    )
    for name in ("open_clip_model.safetensors", "open_clip_config.json", "manifest.json"):
        original = (folder / name).read_bytes()
        (folder / name).write_bytes(original[:-2] + bytes([original[-2] ^ 1]) + original[-1:])
        with pytest.raises(UserError, match=r"model/.*(damaged|not readable as JSON).*fetch the folder again"):
            load_open_clip(local)
        (folder / name).write_bytes(original)
