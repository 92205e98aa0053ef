"""Encoders of other libraries in a tiny size, with random weights: real architectures, saved as their libraries do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from PIL import Image
from timm.models import register_model, save_for_hf
from timm.models.vision_transformer import VisionTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SIZE = 32
_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VOCABULARY = 400


@register_model
def vit_tiny_patch16_siglip_32(pretrained: bool = False, **settings: Any) -> VisionTransformer:
    """SigLIP's image tower, attention pooling included."""
    settings = {key: settings[key] for key in ("num_classes", "global_pool", "img_size") if key in settings}
    size = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "class_token": False}
    return VisionTransformer(**(size | {"img_size": SIZE, "global_pool": "map"} | settings))


def picture(seed: int = 0) -> Image.Image:
    """Returns an image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8))


def make_tokenizer(lower: bool = False, context: int = 10**6) -> transformers.PreTrainedTokenizerFast:
    """Returns a byte-level tokenizer with an end token, which distinguishes case unless ``lower``."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.normalizer = normalizers.Lowercase() if lower else None
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["a photo of a lynx", "azure, a bend or", "gules, a cross argent"] * 5, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=context, **names)


def write_timm(folder: Path) -> torch.nn.Module:
    """Writes a timm model as ``timm:FOLDER`` loads it, and returns it."""
    torch.manual_seed(0)
    size = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": SIZE}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **size)
    model.pretrained_cfg |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "crop_pct": 1.0, "tag": ""}
    model.pretrained_cfg |= {"input_size": (3, SIZE, SIZE)}
    save_for_hf(model, folder, model_args=size, safe_serialization=True)
    return model.eval()


def write_transformers(kind: str, folder: Path) -> tuple[Any, Any]:
    """Writes a model of ``siglip``, ``siglip2`` (NaFlex), ``metaclip_2``, ``clip`` or ``tipsv2`` with its processor.

    Returns:
        tuple: The model, and its processor as transformers loads it.
    """
    torch.manual_seed(0)
    model, processor = {"siglip": _siglip, "siglip2": _naflex, "tipsv2": _tips}.get(kind, lambda: _clip(kind))()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "right"}))  # as it is published
    return model.eval(), transformers.AutoProcessor.from_pretrained(folder)


def _siglip() -> tuple[Any, Any]:
    text = _TOWER | {"vocab_size": _VOCABULARY, "max_position_embeddings": 64, "projection_size": 32}
    vision = _TOWER | {"image_size": SIZE, "patch_size": 16}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    images = transformers.SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
    return transformers.SiglipModel(config), transformers.SiglipProcessor(images, make_tokenizer())


def _naflex() -> tuple[Any, Any]:
    text = _TOWER | {"vocab_size": _VOCABULARY, "max_position_embeddings": 64, "projection_size": 32}
    config = transformers.Siglip2Config(text_config=text, vision_config=_TOWER | {"num_patches": 16, "patch_size": 16})
    images = transformers.Siglip2ImageProcessor(max_num_patches=256, patch_size=16)
    return transformers.Siglip2Model(config), transformers.Siglip2Processor(images, make_tokenizer(lower=True))


def _clip(kind: str) -> tuple[Any, Any]:
    of_config, of_model = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel),
        "metaclip_2": (transformers.MetaClip2Config, transformers.MetaClip2Model),
    }[kind]
    tokens = {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    text = _TOWER | {"vocab_size": _VOCABULARY, "max_position_embeddings": 77, "projection_dim": 24} | tokens
    vision = _TOWER | {"image_size": SIZE, "patch_size": 16, "projection_dim": 24}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    model = of_model(of_config(text_config=text, vision_config=vision, projection_dim=24))
    return model, transformers.CLIPProcessor(images, make_tokenizer(context=77))


def _tips() -> tuple[Any, Any]:
    text = _TOWER | {"vocab_size": _VOCABULARY, "max_position_embeddings": 64}
    vision = _TOWER | {"image_size": SIZE, "patch_size": 16}
    model = transformers.Tipsv2Model(transformers.Tipsv2Config(text_config=text, vision_config=vision))
    images = transformers.Tipsv2ImageProcessor(size={"height": SIZE, "width": SIZE})
    return model, transformers.Tipsv2Processor(images, make_tokenizer(lower=True))


def write_open_clip(kind: str, folder: Path) -> str:
    """Writes an open_clip model of ``siglip2`` or ``pe_core`` as ``local-dir:`` loads it; returns ``retriever.model``.

    Their configurations are those of ``ViT-B-16-SigLIP2`` and ``PE-Core-T-16-384`` with smaller towers; PE-Core's image
    tower, of 6 million parameters, is the real one.
    """
    import open_clip
    from safetensors.torch import save_file

    name = {"siglip2": "ViT-B-16-SigLIP2", "pe_core": "PE-Core-T-16-384"}[kind]
    config = open_clip.get_model_config(name)
    config["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2}
    setup = open_clip.get_pretrained_cfg(name, open_clip.list_pretrained_tags_by_model(name)[0])
    preprocess = {key: setup[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    folder.mkdir(parents=True)
    if kind == "siglip2":
        config["embed_dim"] = 32
        config["vision_cfg"] |= {"timm_model_name": "vit_tiny_patch16_siglip_32", "image_size": SIZE}
        config["text_cfg"]["vocab_size"] = _VOCABULARY
        make_tokenizer().save_pretrained(folder)
    settings = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
