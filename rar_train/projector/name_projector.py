"""Trains a ``NameProjector``: its readers are classifiers of the tower's maps over the names of its dictionary.

The language model takes no part. The maps of all pictures are computed once and held in memory, so an epoch takes
seconds. Each picture is kept from one of the readers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Rows

from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.prompting.prompts import NAMING
from data_prep.settings import Recipe
from rar_train.engine.sampler import SampledExample
from rar_train.models.mllm import Mllm
from rar_train.projector.datamodule import NamingData, projector_inputs
from rar_train.projector.module import ProjectorTraining

log = logging.getLogger(__name__)

_AT_ONCE = 64  # pictures
_FILL = "\n"  # what tokens behind a name's end say


class _Maps(Rows):
    """Map, label and fold by number, or by place: another epoch shows another view.

    Args:
        maps: Of shape ``[views, n, places, channels]``.
        samples: The pictures.
    """

    def __init__(self, maps: Tensor, samples: Sequence[Sample]):
        self.maps, self.labels = maps, [sample.label for sample in samples]
        # By the picture's bytes, so that copies share a fold.
        self.folds = [int(sample.digest[:8], 16) for sample in samples]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int | SampledExample) -> tuple[Tensor, int, int]:
        number, epoch, _ = place if isinstance(place, SampledExample) else (place, 0, 1.0)
        return self.maps[(number + epoch) % len(self.maps), number], self.labels[number], self.folds[number]


class MapData(NamingData):
    """Maps and labels, from an optimiser step on.

    Args:
        recipe: The run's recipe.
        mllm: Its tower reads the pictures.
        dataset: With the parts ``train`` and ``val``.
        start: Optimiser steps that are done already.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm, dataset: Dataset, start: int):
        super().__init__(recipe, mllm, dataset, start)
        self.rows = {}
        for part, views in (("train", recipe.trainer.feature_views), ("val", 1)):
            samples = dataset.parts[part]
            starts = range(0, len(samples), _AT_ONCE)
            maps = [
                projector_inputs(mllm, samples[start : start + _AT_ONCE], view).half().cpu()
                for view in range(views)
                for start in starts
            ]
            self.rows[part] = _Maps(torch.cat(maps).unflatten(0, (views, -1)), samples)

    def train_dataloader(self) -> DataLoader:
        """All epochs as one stream, from the position on."""
        sampler = self._sampler(self.trainer.world_size, self.trainer.global_rank)
        return DataLoader(self.rows["train"], batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        """All validation pictures."""
        return DataLoader(self.rows["val"], self.recipe.optim.batch_size)


@torch.no_grad()
def start_names(mllm: Mllm, data: MapData) -> None:
    """Fills the dictionary with the training classes' names, and tells the projector how far the maps' channels vary."""
    (fill,) = mllm.processor.tokenizer(_FILL, add_special_tokens=False).input_ids[-1:]
    names = [data.dataset.names[label] for label in data.dataset.labels("train")]
    mllm.base.set_names([mllm.answer_ids(NAMING, name)[:-1] for name in names], fill)
    projector = mllm.base.get_submodule(mllm.family.connector)
    maps = data.rows["train"].maps[0]
    variances = torch.stack([part.float().flatten(0, 1).var(0) for part in maps.split(512) if len(part) > 1])
    projector.spread.copy_(variances.mean(0).sqrt().clamp(min=1e-6))


class NameModule(ProjectorTraining):
    """The projector is trained by cross-entropy on the names of its dictionary.

    Args:
        recipe: The run's recipe.
        mllm: The model.
        dataset: Whose training classes the dictionary holds; validation chooses among those that development shows too.
        steps: Optimiser steps in the whole run, for the schedule.
    """

    def __init__(self, recipe: Recipe, mllm: Mllm, dataset: Dataset, steps: int):
        super().__init__(recipe, mllm, steps)
        self.known = torch.tensor(dataset.labels("train"))
        shown = torch.isin(self.known, torch.tensor(dataset.labels("val")))
        if not shown.any():
            log.warning("development shows none of the classes whose names the projector learns: val/named will be 0")
            shown[:] = True
        self.asked = shown.nonzero()[:, 0]

    def on_train_start(self) -> None:
        """``from_pretrained`` leaves eval mode and Lightning keeps what it finds."""
        self.train()

    def on_train_batch_start(self, batch: list[Tensor], batch_idx: int) -> None:
        """Makes dropout a function of seed, batch and process, so that a resumed run repeats it."""
        torch.manual_seed((self.recipe.seed * 1_000_003 + batch_idx) * 1_009 + self.global_rank)

    def training_step(self, batch: list[Tensor], _) -> Tensor:
        """Cross-entropy over the dictionary, of each reader on the pictures that are not kept from it."""
        maps, labels, folds = batch
        logits = self.projector.name_logits(maps.to(self.projector.words))
        readers = len(logits)
        truths = torch.searchsorted(self.known.to(labels.device), labels)
        each = F.cross_entropy(logits.flatten(0, 1), truths.repeat(readers), reduction="none").view(readers, -1)
        shown = torch.arange(readers, device=folds.device)[:, None] != folds % readers
        # A reader alone has no other to keep a picture for.
        loss = (each * shown).sum() / shown.sum() if readers > 1 else each.mean()
        self.log("train/loss", loss, batch_size=len(labels))
        return loss

    def validation_step(self, batch: list[Tensor], _) -> None:
        """Share of pictures whose name is the likeliest; a class that the dictionary lacks is a miss."""
        maps, labels, _ = batch
        shares = self.projector.log_shares(maps.to(self.projector.words)).cpu()
        found = self.known[self.asked[shares[:, self.asked].argmax(1)]]
        hits = (found == labels.cpu()).float().mean().to(self.device)
        self.log("val/named", hits, batch_size=len(labels), sync_dist=True)
