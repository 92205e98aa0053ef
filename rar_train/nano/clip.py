"""Trains nano-clip from scratch: a small open_clip model for shields and their blazons."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from data_prep.armory.base_corpus import BaseCorpus, base_corpus
from data_prep.armory.blazon import Blazon
from data_prep.core.files import write_folder
from data_prep.settings import NanoArgs, Recipe
from rar_train.engine.schedule import warmup_cosine
from rar_train.engine.trainer import make_device_trainer
from rar_train.nano.architecture import PIXELS as MLLM_PIXELS
from rar_train.nano.manifest import write_nano_manifest
from rar_train.nano.tokenizer import nano_tokenizer
from rar_train.nano.tower import HELD_OUT, index_loader, to_pixel_values

log = logging.getLogger(__name__)

PIXELS = 48
KEEP_PROBABILITY = 0.5
"""Probability that a caption mentions a part of the blazon."""


def nano_clip_config(vocabulary: int) -> dict:
    """Returns open_clip's model and preprocessing configuration for a vocabulary size."""
    return {
        "model_cfg": {
            "embed_dim": 96,
            "vision_cfg": {
                "image_size": PIXELS,
                "patch_size": 8,
                "width": 128,
                "head_width": 32,
                "layers": 5,
                "mlp_ratio": 2.0,
            },
            "text_cfg": {
                "context_length": 32,
                "vocab_size": vocabulary,
                "width": 96,
                "heads": 3,
                "layers": 3,
                "mlp_ratio": 2.0,
                # Any name: with local-dir: open_clip takes the tokenizer from the weights' folder.
                "hf_tokenizer_name": "nano-clip",
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }


def sample_caption(blazon: Blazon, rng: np.random.Generator) -> str:
    """Samples a caption as people write them: each part of the blazon is mentioned or omitted.

    Captions that omit details are the reason why CLIP blurs fine distinctions.
    """
    parts = blazon.name.split(", ")
    mentioned = [part for part in parts if rng.random() < KEEP_PROBABILITY]
    return ", ".join(mentioned or [parts[rng.integers(len(parts))]])


class ClipModule(L.LightningModule):
    """An open_clip model with CLIP's contrastive loss over batches of images and captions."""

    def __init__(self, model: torch.nn.Module, corpus: BaseCorpus, args: NanoArgs):
        super().__init__()
        self.model, self.corpus, self.args = model, corpus, args
        self.tokenizer = nano_tokenizer(append_eos=True)

    def encode(self, rows: np.ndarray, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Returns unit embeddings of the rows' images and of texts, each of shape ``[n, d]``."""
        pixels = F.interpolate(
            to_pixel_values(self.corpus.images[rows]), PIXELS, mode="bicubic", antialias=True, align_corners=False
        )
        ids = self.tokenizer(texts, padding="max_length", max_length=self.model.context_length).input_ids
        image = self.model.encode_image(pixels.to(self.device), normalize=True)
        return image, self.model.encode_text(torch.tensor(ids, device=self.device), normalize=True)

    def training_step(self, rows: np.ndarray, step: int) -> Tensor:
        """Computes the symmetric contrastive loss of CLIP."""
        rng = np.random.default_rng([self.args.seed, step])
        image, text = self.encode(rows, [sample_caption(self.corpus.blazons[row], rng) for row in rows])
        logits = self.model.logit_scale.exp().clamp(max=100) * image @ text.T
        target = torch.arange(len(rows), device=self.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        self.log_dict({"clip/loss": loss, "clip/scale": self.model.logit_scale.exp()})
        return loss

    def configure_optimizers(self) -> dict:
        """Builds AdamW with warm-up and cosine decay."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.args.clip_lr, weight_decay=0.1, betas=(0.9, 0.98))
        return warmup_cosine(optimizer, 0.05, self.args.clip_steps)


@torch.no_grad()
def retrieval_accuracy(module: ClipModule, rows: np.ndarray) -> float:
    """Returns the share of held-out images whose own name is nearest among all held-out names."""
    module.eval()
    names = [blazon.name for blazon in module.corpus.blazons]
    parts = [module.encode(part, [names[row] for row in part]) for part in np.array_split(rows, 8)]
    image, text = (torch.cat(column) for column in zip(*parts, strict=True))
    return ((image @ text.T).argmax(1) == torch.arange(len(rows))).float().mean().item()


def train_nano_clip(recipe: Recipe) -> Path:
    """Trains and saves the model, its tokenizer and a manifest under ``recipe.out``."""
    from open_clip import create_model

    args, out = recipe.nano, Path(recipe.out)
    L.seed_everything(args.seed)
    corpus = base_corpus(Path(recipe.cache), args.thousands, MLLM_PIXELS, args.seed)  # rendered once for both models
    held_out = np.arange(len(corpus.images) - HELD_OUT, len(corpus.images))
    tokenizer = nano_tokenizer(append_eos=True)
    config = nano_clip_config(len(tokenizer))
    with write_folder(out / "model") as part:
        (part / "open_clip_config.json").write_text(json.dumps(config, indent=1))
        tokenizer.save_pretrained(part)
        model = create_model(f"local-dir:{part}")
        module = ClipModule(model, corpus, args)
        make_device_trainer(recipe, out / "clip", args.clip_steps).fit(
            module, index_loader(len(corpus.images) - HELD_OUT, args.clip_batch, args.seed)
        )
        accuracy = retrieval_accuracy(module, held_out)
        log.info("held-out name retrieval among %d: %.3f", len(held_out), accuracy)
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()},
            part / "open_clip_model.safetensors",
        )
        write_nano_manifest(part, recipe, corpus.fingerprint, {"name_retrieval_of_1000": accuracy})
    return out / "model"
