"""A tiny pointwise reranker in the hub's layout: Qwen3-VL with the files of sentence-transformers' ``CrossEncoder``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoProcessor

from rar_train.models.forest import yes_no_conversations
from rar_train.models.mllm import Mllm
from rar_train.models.planting import plant
from rar_train.models.scoring import pair_scores, score
from rar_train.rerankers.templates import TEMPLATES
from tests.rar_train.tiny_families import NAMES, save_tiny

TRUE, FALSE = "y", "n"
"""Tokens of the tiny vocabulary, which has no yes and no."""

_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
_LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"


def save_reranker(folder: Path, kind: str = "qwen3_vl", false_token: bool = True) -> Path:
    """Writes a family's tiny model with a template ``reranker`` and the two tokens that it answers with.

    Args:
        folder: To write.
        kind: The family.
        false_token: Whether the score is the log-odds of two tokens, instead of one's logit.
    """
    save_tiny(kind, folder)
    processor = AutoProcessor.from_pretrained(folder)
    processor.chat_template = {"default": processor.chat_template, "reranker": TEMPLATES["qwen3_vl"]}
    processor.save_pretrained(folder)
    vocabulary = processor.tokenizer.get_vocab()
    tokens = {"true_token_id": vocabulary[TRUE], "false_token_id": vocabulary[FALSE] if false_token else None}
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": _TRANSFORMER},
        {"idx": 1, "name": "1", "path": "1_LogitScore", "type": _LOGIT_SCORE},
    ]
    method = {"method": "forward", "method_output_name": "logits"}
    settings = {
        "transformer_task": "any-to-any",
        "modality_config": {"text": method, "image": method, "message": method | {"format": "structured"}},
        "module_output_name": "causal_logits",
        "processing_kwargs": {"chat_template": {"chat_template": "reranker", "add_generation_prompt": True}},
    }
    files = {
        "1_LogitScore/config.json": tokens,
        "modules.json": modules,
        "sentence_bert_config.json": settings,
        "config_sentence_transformers.json": {"model_type": "CrossEncoder", "prompts": {}},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def save_jina(folder: Path) -> dict[str, Tensor]:
    """Writes a tiny Qwen2-VL with the head of jina-reranker-m0.

    Returns:
        dict[str, Tensor]: The head's weights by name.
    """
    save_tiny("qwen2_vl", folder)
    config = json.loads((folder / "config.json").read_text())
    width = config["text_config"]["hidden_size"]
    draw = torch.Generator().manual_seed(1)
    shapes = {"0.weight": (width, width), "0.bias": (width,), "2.weight": (1, width), "2.bias": (1,)}
    head = {f"score.{name}": torch.randn(shape, generator=draw) / 4 for name, shape in shapes.items()}
    weights = load_file(folder / "model.safetensors")
    save_file(weights | head, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["JinaVLForRanking"]}))
    return head


def score_all(
    mllm: Mllm, images: Sequence[Image.Image], names: Sequence[str] = NAMES, descriptions: Sequence[str] = ()
) -> Tensor:
    """Returns the log-odds of all names for all images, ``[images, names]``, in one pass."""
    asked = [yes_no_conversations(names, descriptions, mllm.reranker is not None) for _ in images]
    with torch.no_grad():
        tree_scores = score(mllm, plant(mllm, images, asked), mllm.yes_no_ids())
        return pair_scores(mllm, tree_scores.letters, tree_scores.states).view(len(images), -1)
