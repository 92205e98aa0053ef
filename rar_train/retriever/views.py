"""Inputs of the tuned part of the retriever: pixels and token ids, or cached features of frozen towers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop

from data_prep.core.errors import UserError
from data_prep.core.images import open_image
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import embed_images, embed_names
from data_prep.embedding.open_clip_encoder import OpenClipEncoder
from data_prep.memory.memories import with_templates
from data_prep.settings import Recipe, TuningArgs


def training_transform(encoder: OpenClipEncoder, args: TuningArgs) -> Callable[[Image.Image], Tensor]:
    """Makes the function from a training image to pixels ``[3, h, w]``, which draws from torch's random numbers."""
    if not args.augment:
        return encoder.preprocess
    augment: Any = copy.deepcopy(encoder.augment)
    for step in augment.transforms:
        if isinstance(step, RandomResizedCrop):
            step.scale = (args.crop_scale, 1.0)
    return Compose([RandomHorizontalFlip(), augment]) if args.flip else augment


class Pixels:
    """Images and texts, preprocessed for the encoder.

    Args:
        encoder: Its preprocessing and tokenizer are used.
        args: How training images are cropped and mirrored.
    """

    def __init__(self, encoder: OpenClipEncoder, args: TuningArgs):
        self.encoder, self.transform = encoder, training_transform(encoder, args)

    def train_view(self, sample: Sample, seed: int) -> Tensor:
        """Returns the pixels of a training image; the seed determines the crop."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.transform(open_image(sample.path))

    def val_view(self, sample: Sample) -> Tensor:
        """Returns the pixels of a validation image."""
        return self.encoder.preprocess(open_image(sample.path))

    def texts(self, texts: list[str]) -> Tensor:
        """Returns token ids of shape ``[n, context]``."""
        return self.encoder.tokenize(texts)


class Features:
    """Features of images and texts from frozen towers, computed once and cached.

    The normalised output of a projection without bias does not depend on the length of the feature, so the features are
    cached like any encoder's embeddings: at unit length.

    Args:
        recipe: Gives retriever settings and cache.
        encoder: The full model, with projections.
        dataset: Data set with the parts ``train`` and ``val``.
    """

    def __init__(self, recipe: Recipe, encoder: OpenClipEncoder, dataset: Dataset):
        towers, cache = without_projections(encoder), Path(recipe.cache)
        samples = [sample for part in ("train", "val") for sample in dataset.parts[part]]
        images = torch.from_numpy(embed_images(towers, samples, recipe.retriever, cache))
        self.images = {sample.digest: row for sample, row in zip(samples, images, strict=True)}
        untemplated = replace(recipe.retriever, templates=["{}"])
        templates = with_templates(recipe.retriever, dataset).templates
        texts = list(dict.fromkeys(template.format(name) for name in dataset.texts for template in templates))
        self.by_text = dict(zip(texts, torch.from_numpy(embed_names(towers, texts, untemplated, cache)), strict=True))

    def train_view(self, sample: Sample, seed: int) -> Tensor:
        """Returns a training image's feature of shape ``[channels]``; the seed has no effect."""
        return self.images[sample.digest]

    def val_view(self, sample: Sample) -> Tensor:
        """Returns a validation image's feature of shape ``[channels]``."""
        return self.images[sample.digest]

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Returns text features of shape ``[n, width]``."""
        return torch.stack([self.by_text[text] for text in texts])


class Projections(nn.Module):
    """A model's projections and logit scale, as a model on the towers' features; it shares the model's parameters.

    Args:
        model: An open_clip model of a timm image tower and a Hugging Face text tower.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.image, self.text, self.logit_scale = model.visual.head, model.text.proj, model.logit_scale

    def encode_image(self, features: Tensor) -> Tensor:
        """Returns embeddings of shape ``[n, d]``, not normalised."""
        return self.image(features)

    def encode_text(self, features: Tensor) -> Tensor:
        """Returns embeddings of shape ``[n, d]``, not normalised."""
        return self.text(features)


def without_projections(encoder: OpenClipEncoder) -> OpenClipEncoder:
    """Returns the encoder without its projections.

    Raises:
        UserError: The projections are not separate from the towers, or have a bias or more than one layer.
    """
    towers = encoder.towers()
    if towers is None:
        raise UserError(
            f"retriever.tuning.towers=projections: {encoder.id} is not a timm image tower and a Hugging Face text "
            "tower with a linear projection each; tune image, text or both"
        )
    return towers
