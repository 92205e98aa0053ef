"""What the tuned part of the retriever is shown: pixels and token ids, or what frozen towers made of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CustomTextCLIP
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint
from data_prep.core.images import open_image
from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import Encoder, embed_images, embed_names, encoder_id, state_hash
from data_prep.memory.memories import with_templates
from data_prep.settings import Recipe


class Pixels:
    """Pictures and texts as the encoder takes them.

    Args:
        encoder: Prepares both.
        augment: Whether training shows open_clip's random crops.
    """

    def __init__(self, encoder: Encoder, augment: bool):
        self.encoder, self.transform = encoder, encoder.augment if augment else encoder.preprocess

    def shown(self, sample: Sample, seed: int) -> Tensor:
        """A picture to train on; its crop follows from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.transform(open_image(sample.path))

    def asked(self, sample: Sample) -> Tensor:
        """A picture to validate on."""
        return self.encoder.preprocess(open_image(sample.path))

    def texts(self, texts: list[str]) -> Tensor:
        """Token ids of shape ``[n, context]``."""
        return self.encoder.tokenize(texts)


class Features:
    """What the towers make of pictures and texts, computed once and kept in the cache.

    A projection without bias, whose output is normalised, gives the same for a feature of any length, so the towers'
    embeddings are kept as any encoder's: at unit length.

    Args:
        recipe: Retriever settings and cache.
        encoder: The whole model.
        dataset: With the parts ``train`` and ``val``.
    """

    def __init__(self, recipe: Recipe, encoder: Encoder, dataset: Dataset):
        towers, cache = without_projections(encoder), Path(recipe.cache)
        samples = [sample for part in ("train", "val") for sample in dataset.parts[part]]
        images = torch.from_numpy(embed_images(towers, samples, recipe.retriever, cache))
        self.images = {sample.digest: row for sample, row in zip(samples, images, strict=True)}
        bare = replace(recipe.retriever, templates=["{}"])
        templates = with_templates(recipe.retriever, dataset).templates
        texts = list(dict.fromkeys(template.format(name) for name in dataset.texts for template in templates))
        self.by_text = dict(zip(texts, torch.from_numpy(embed_names(towers, texts, bare, cache)), strict=True))

    def shown(self, sample: Sample, seed: int) -> Tensor:
        """A picture's feature of shape ``[channels]``, whatever the seed."""
        return self.images[sample.digest]

    def asked(self, sample: Sample) -> Tensor:
        """The same."""
        return self.images[sample.digest]

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Features of shape ``[n, width]``."""
        return torch.stack([self.by_text[text] for text in texts])


class Projections(nn.Module):
    """A model's projections and scale as a model that takes the towers' features; the parameters are the model's own.

    Args:
        model: open_clip's, of a timm image tower and a Hugging Face text tower.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.image, self.text, self.logit_scale = model.visual.head, model.text.proj, model.logit_scale

    def encode_image(self, features: Tensor) -> Tensor:
        """Embeddings of shape ``[n, d]``."""
        return self.image(features)

    def encode_text(self, features: Tensor) -> Tensor:
        """Embeddings of shape ``[n, d]``."""
        return self.text(features)


def without_projections(encoder: Encoder) -> Encoder:
    """The encoder without its projections.

    Raises:
        UserError: Its projections are not apart from its towers, or have a bias or more layers than one.
    """
    model = encoder.model
    apart = (
        isinstance(model, CustomTextCLIP)
        and isinstance(model.visual, TimmModel)
        and isinstance(model.text, HFTextEncoder)
    )
    if not apart or not isinstance(model.text.proj, nn.Linear) or "mlp" in dict(model.visual.head.named_children()):
        raise UserError(
            f"retriever.tuning.towers=projections: {encoder.id} is not a timm image tower and a Hugging Face text "
            "tower with a linear projection each; tune image, text or both"
        )
    bare = copy.deepcopy(model)
    bare.visual.head, bare.text.proj = nn.Identity(), nn.Identity()
    metadata = encoder.metadata | {"weights": state_hash(bare), "architecture": fingerprint(repr(bare))}
    return replace(encoder, model=bare, id=encoder_id("towers", metadata), metadata=metadata)
