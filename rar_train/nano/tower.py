"""Stage one of nano-mllm: the vision tower learns a blazon's details by classification."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlavaForConditionalGeneration

from data_prep.armory.base_corpus import BaseCorpus
from data_prep.armory.blazon import DETAILS
from data_prep.core.files import fingerprint, write_folder
from data_prep.core.manifests import seal_folder
from data_prep.settings import NanoArgs, Recipe
from rar_train.engine.run_folder import is_complete
from rar_train.engine.schedule import warmup_cosine
from rar_train.engine.trainer import make_device_trainer

log = logging.getLogger(__name__)

HELD_OUT = 1000
"""Number of images at the corpus's end that training does not use."""


def to_pixel_values(images: np.ndarray) -> Tensor:
    """Scales uint8 images ``[n, h, w, 3]`` as the processor does, to ``[n, 3, h, w]`` in -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


class RandomBatches(IterableDataset):
    """An endless seeded stream of index arrays over a corpus."""

    def __init__(self, n: int, batch_size: int, seed: int):
        self.n, self.batch_size, self.seed = n, batch_size, seed

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        while True:
            yield np.sort(rng.choice(self.n, self.batch_size, replace=False))


def index_loader(n: int, batch_size: int, seed: int) -> DataLoader:
    """Returns a loader of ``RandomBatches``; the modules look the rows up themselves."""
    # Rows index NumPy arrays, so they must not become tensors, which Lightning would move to the GPU.
    return DataLoader(RandomBatches(n, batch_size, seed), batch_size=None, collate_fn=np.asarray)


class TowerModule(L.LightningModule):
    """Stage one: classifies every detail of the blazon from the tower's mean token."""

    def __init__(self, tower: nn.Module, corpus: BaseCorpus, args: NanoArgs):
        super().__init__()
        self.tower, self.corpus, self.args = tower, corpus, args
        width = tower.config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, len(values)) for values in DETAILS.values())
        self.register_buffer("details", torch.as_tensor(corpus.details), persistent=False)

    def training_step(self, rows: np.ndarray, _) -> Tensor:
        """Computes the cross-entropy summed over the details."""
        pixels = to_pixel_values(self.corpus.images[rows]).to(self.device)
        shift = torch.randint(-4, 5, (2,)).tolist()
        pooled = self.tower(torch.roll(pixels, shift, (2, 3))).pooler_output
        targets = self.details[torch.as_tensor(rows)]
        losses = [F.cross_entropy(head(pooled), targets[:, i]) for i, head in enumerate(self.heads)]
        loss = torch.stack(losses).sum()
        self.log("tower/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict:
        """Builds AdamW with warm-up and cosine decay."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.args.tower_lr, weight_decay=0.05)
        return warmup_cosine(optimizer, 0.05, self.args.tower_steps)

    @torch.no_grad()
    def accuracy(self, rows: np.ndarray) -> dict[str, float]:
        """Returns the share of correctly classified images, for each detail."""
        self.eval()
        pooled = torch.cat(
            [self.tower(to_pixel_values(self.corpus.images[part])).pooler_output for part in np.array_split(rows, 20)]
        )
        hits = [(head(pooled).argmax(1) == self.details[rows, i]) for i, head in enumerate(self.heads)]
        return {name: hit.float().mean().item() for name, hit in zip(DETAILS, hits, strict=True)}


def train_tower(recipe: Recipe, model: LlavaForConditionalGeneration, corpus: BaseCorpus) -> TowerModule:
    """Trains the model's tower (stage one), or loads its weights from the cache."""
    args = recipe.nano
    key = [corpus.fingerprint, args.seed, args.tower_steps, args.tower_batch, args.tower_lr]
    key.append(model.config.vision_config.architecture_args)
    cached = Path(recipe.cache) / f"nano-tower-{fingerprint(key)}"
    module = TowerModule(model.model.vision_tower, corpus, args)
    if is_complete(cached):
        log.info("tower: reusing %s", cached.name)
        load_model(module, cached / "tower.safetensors")
    else:
        L.seed_everything(args.seed)
        log.info("tower: training %d steps", args.tower_steps)
        loader = index_loader(len(corpus.images) - HELD_OUT, args.tower_batch, args.seed)
        make_device_trainer(recipe, Path(recipe.out) / "tower", args.tower_steps).fit(module, loader)
        with write_folder(cached) as part:
            save_model(module, part / "tower.safetensors")
            seal_folder(part, {})
    return module


@torch.no_grad()
def init_projector(model: LlavaForConditionalGeneration, tower: TowerModule) -> None:
    """Initializes the projector with the tower's classifiers, so that image tokens encode details from the first step.

    From a random initialization, the language model took 700 steps before it used the image at all.
    """
    first = model.model.multi_modal_projector.linear_1
    weight = torch.cat([head.weight for head in tower.heads])
    first.weight[: len(weight)] = weight
    first.bias[: len(weight)] = torch.cat([head.bias for head in tower.heads])


@torch.no_grad()
def tower_features(tower: nn.Module, corpus: BaseCorpus, batch_size: int = 250) -> Tensor:
    """Computes the frozen tower's half-precision features of the corpus, shape ``[n, tokens, channels]``."""
    tower.eval()
    starts = range(0, len(corpus.images), batch_size)
    return torch.cat(
        [tower(to_pixel_values(corpus.images[start : start + batch_size])).last_hidden_state.half() for start in starts]
    )
