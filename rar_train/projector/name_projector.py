"""Trains a ``NameProjector``: its readers classify the tower's feature maps over the names of its dictionary.

The language model is not used. The feature maps of all images are computed once and held in memory, so an epoch takes
seconds. Each image is withheld from one of the readers; where the tower has its own classifier, all images of a class
are withheld from one of them too, on which it is then calibrated.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Rows

from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.prompting.prompts import NAMING
from data_prep.settings import Recipe
from rar_train.engine.sampler import SampledExample
from rar_train.models.mllm import Mllm
from rar_train.models.name_llava import FILL, NameProjector
from rar_train.projector.datamodule import NamingData, projector_inputs
from rar_train.projector.module import ProjectorTraining

log = logging.getLogger(__name__)

_BATCH_SIZE = 64  # images per pass through the tower


class _Maps(Rows):
    """Feature map, label and fold, by row or by ``SampledExample``; each epoch uses another view.

    Args:
        maps: Feature maps of shape ``[views, n, positions, channels]``.
        samples: The images.
    """

    def __init__(self, maps: Tensor, samples: Sequence[Sample]):
        self.maps, self.labels = maps, [sample.label for sample in samples]
        # Computed from the image's bytes, so that copies share a fold.
        self.folds = [int(sample.digest[:8], 16) for sample in samples]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | SampledExample) -> tuple[Tensor, int, int]:
        row, epoch, _ = key if isinstance(key, SampledExample) else (key, 0, 1.0)
        return self.maps[(row + epoch) % len(self.maps), row], self.labels[row], self.folds[row]


class MapData(NamingData):
    """Feature maps and labels, starting at an optimiser step.

    Args:
        recipe: The run's recipe.
        mllm: Its tower computes the maps.
        dataset: Data set with the parts ``train`` and ``val``.
        start: Number of optimiser steps done before.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm, dataset: Dataset, start: int):
        super().__init__(recipe, mllm, dataset, start)
        self.rows = {}
        for part, views in (("train", recipe.trainer.feature_views), ("val", 1)):
            samples = dataset.parts[part]
            starts = range(0, len(samples), _BATCH_SIZE)
            maps = [
                projector_inputs(mllm, samples[start : start + _BATCH_SIZE], view).half().cpu()
                for view in range(views)
                for start in starts
            ]
            self.rows[part] = _Maps(torch.cat(maps).unflatten(0, (views, -1)), samples)

    def train_dataloader(self) -> DataLoader:
        """Returns a loader of all epochs as one stream, starting at the position."""
        sampler = self._make_sampler(self.trainer.world_size, self.trainer.global_rank)
        return DataLoader(self.rows["train"], batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        """Returns a loader of all validation images."""
        return DataLoader(self.rows["val"], self.recipe.optim.batch_size)


@torch.no_grad()
def init_names(mllm: Mllm, data: MapData) -> None:
    """Fills the dictionary with the training classes' names, and sets ``spread`` to the maps' deviation by channel."""
    (fill,) = mllm.processor.tokenizer(FILL, add_special_tokens=False).input_ids[-1:]
    names = [data.dataset.names[label] for label in data.dataset.labels("train")]
    mllm.base.set_names([mllm.answer_ids(NAMING, name)[:-1] for name in names], fill)
    projector = mllm.base.get_submodule(mllm.family.connector)
    maps = data.rows["train"].maps[0]
    variances = torch.stack([part.float().flatten(0, 1).var(0) for part in maps.split(512) if len(part) > 1])
    projector.spread.copy_(variances.mean(0).sqrt().clamp(min=1e-6))


class NameModule(ProjectorTraining):
    """Trains the projector by cross-entropy on the names of its dictionary.

    Args:
        recipe: The run's recipe.
        mllm: The model.
        dataset: Its training classes are in the dictionary; validation chooses among those that ``val`` has too.
        steps: Optimiser steps in the complete run, for the schedule.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm, dataset: Dataset, steps: int):
        super().__init__(recipe, mllm, steps)
        self.known = torch.tensor(dataset.labels("train"))
        self.first = len(self.projector.spelling) - len(self.known)
        in_val = torch.isin(self.known, torch.tensor(dataset.labels("val")))
        if not in_val.any():
            log.warning("val has none of the classes whose names the projector learns: val/named will be 0")
            in_val[:] = True
        self.choices = in_val.nonzero()[:, 0]

    def on_train_start(self) -> None:
        """Sets training mode: ``from_pretrained`` leaves eval mode, and Lightning keeps the mode that it finds."""
        self.train()

    def on_train_batch_start(self, batch: list[Tensor], batch_idx: int) -> None:
        """Makes dropout a function of seed, batch and process, so that a resumed run repeats it."""
        torch.manual_seed((self.recipe.seed * 1_000_003 + batch_idx) * 1_009 + self.global_rank)

    def training_step(self, batch: list[Tensor], _) -> Tensor:
        """Computes each reader's cross-entropy over the names, on the images that are not withheld from it."""
        maps, labels, folds = batch
        logits = self.projector.name_logits(maps.to(self.projector.words))
        readers = len(logits)
        truths = torch.searchsorted(self.known.to(labels.device), labels)
        visible = torch.arange(readers, device=folds.device)[:, None] != folds % readers
        if self.projector.classifier is not None:
            visible = visible & ~self.projector.withheld(logits.shape[2]).to(truths.device)[:, truths]
            logits = self.projector.known_logits(logits)
        # With a single reader nothing is withheld.
        visible = visible if readers > 1 else torch.ones_like(visible)
        loss = F.cross_entropy(logits[visible], truths.expand(readers, -1)[visible])
        self.log("train/loss", loss, batch_size=len(labels))
        return loss

    def validation_step(self, batch: list[Tensor], _) -> None:
        """Logs the share of images whose name is ranked first; a class that is not in the dictionary is a miss."""
        maps, labels, _ = batch
        shares = self.projector.log_shares(maps.to(self.projector.words)).cpu()
        predicted = self.known[self.choices[shares[:, self.first + self.choices].argmax(1)]]
        hits = (predicted == labels.cpu()).float().mean().to(self.device)
        self.log("val/named", hits, batch_size=len(labels), sync_dist=True)


@torch.no_grad()
def withheld_logits(projector: NameProjector, rows: _Maps) -> tuple[Tensor, Tensor]:
    """Computes the readers' logits of the training images.

    Args:
        projector: The trained projector.
        rows: The training images.

    Returns:
        tuple: Logits of shape ``[readers, n, names]``, and whether an image is withheld from a reader for itself,
        ``[readers, n]``.
    """
    batches = [projector.name_logits(maps.to(projector.words)).cpu() for maps in rows.maps[0].split(_BATCH_SIZE)]
    readers = len(projector.readers)
    return torch.cat(batches, 1), torch.tensor(rows.folds) % readers == torch.arange(readers)[:, None]


def calibrate(projector: NameProjector, data: MapData) -> None:
    """Fits how sure a reader must be of a name, on images that it was not trained on.

    By maximum likelihood, for each reader a scale of its logits and the logit of none of its names. It is right about
    an image that was withheld for itself if it says its name, and about one of a withheld class if it says none.

    Args:
        projector: A trained projector with a tower's classifier.
        data: Its training data.
    """
    projector.eval()  # after a fit it is in training mode, where readers drop features
    rows = data.rows["train"]
    labels = torch.tensor(rows.labels)
    truths = torch.searchsorted(labels.unique(), labels)
    logits, for_itself = withheld_logits(projector, rows)
    for reader, withheld in enumerate(projector.withheld(logits.shape[2]).cpu()):
        unknown = withheld[truths]
        used = unknown | for_itself[reader]
        names = torch.cumsum(~withheld, 0) - 1  # the truth's position among the names that it knows
        targets = torch.where(unknown, (~withheld).sum(), names[truths])[used]
        scale, none = fit_none(logits[reader][used][:, ~withheld], targets)
        projector.scale[reader], projector.none[reader] = scale, none


def fit_none(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Fits scale and logit of none: the last target of ``[n]``, after the names of logits ``[n, names]``."""
    logits = logits.double()

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        values = torch.tensor(parameters, requires_grad=True)
        scaled = torch.cat([logits * values[0], values[1].expand(len(logits), 1)], 1)
        value = F.cross_entropy(scaled, targets)
        value.backward()
        return value.item(), values.grad.numpy()

    fit = minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=[(1e-3, None), (None, None)], method="L-BFGS-B")
    return tuple(fit.x.tolist())
