"""A LLaVA whose image tokens are mixtures of class names' word embeddings.

LLaVA's projector learns to map a tower's features to inputs of a language model, from hundreds of thousands of
captions. With thousands of labelled images it is cheaper to use the language model's own word embeddings: the projector
reads the tower's full feature map, predicts a weight for each name in its dictionary, and outputs as image tokens the
names' word embeddings mixed by these weights, after AlignVLM (arXiv 2502.01341), which mixes single words. The language
model recognises the words in its prompt before any tuning, and the projector is trained without passes through it.

On its training images a projector is accurate and certain, and on new images it is neither. So there are several
readers (an ensemble), each trained without a share of the images. At inference all of them read an image; in training
only the less certain half does, which is mostly right but less sure, so that a ranker learns to find the largest
share in a mixture.

A tower that has its own classifier brings its classes' names: they come first in the dictionary. Each reader is then
trained without a share of the *classes* too, and has one more answer, none of its names, whose share goes to the names
that the tower's classifier reads; how likely it is is fitted on images of the withheld classes. So an image of a class
that no reader was trained on is described by the nearest names that the tower knows. In training one of the readers
reads an image, by turns, so that a ranker meets classes that its reader does not know.

The dictionary is part of the weights; ``task: projector`` fills it with the training classes' names. Importing this
module registers the model, so that ``AutoModelForImageTextToText`` loads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig, LlavaForConditionalGeneration

FILL = "\n"
"""Text of the tokens after a name's end."""


class NameLlavaConfig(LlavaConfig):
    """LLaVA's configuration, plus the projector's sizes; ``image_seq_length`` is its number of output tokens.

    Args:
        projector_places: Number of positions of the tower's feature map.
        projector_readers: Number of readers.
        projector_width: Width of a reader's hidden layer.
        projector_dropout: Dropout before a reader's last layer, in training.
        projector_names: Number of names in the dictionary.
        projector_words: Number of distinct tokens in the names.
        projector_sharpness: The power to which a name's share is raised before names are mixed; a language model reads
            one name more easily than the mean of many.
        projector_classifier: Sizes of the tower's own classifier: channels of the tower's coarsest map, width of the
            hidden layer, and number of classes; None without one.
        projector_slots: Number of names that the image tokens spell. One is a mixture; several are distributed among
            names in proportion to their shares, by D'Hondt's rule, so that a certain name fills all of them.
    """

    model_type = "name_llava"

    projector_places: int = 25
    projector_readers: int = 4
    projector_width: int = 512
    projector_dropout: float = 0.4
    projector_names: int = 1
    projector_words: int = 1
    projector_sharpness: float = 4.0
    projector_classifier: list[int] | None = None
    projector_slots: int = 1

    @property
    def projector_classes(self) -> int:
        """Number of names that the tower's own classifier knows."""
        return self.projector_classifier[2] if self.projector_classifier else 0


class TowerClassifier(nn.Module):
    """Classifies the tower's coarsest map over the classes that the tower was trained on, as EfficientNet does.

    Args:
        channels: Channels of the coarsest map, which are the last of a feature map's.
        width: Width of the hidden layer.
        classes: Number of classes.
    """

    def __init__(self, channels: int, width: int, classes: int):
        super().__init__()
        self.expand, self.classes = nn.Linear(channels, width), nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Computes log-probabilities of shape ``[n, classes]`` from maps of shape ``[n, places, channels]``."""
        coarse = features[..., -self.expand.in_features :]
        return self.classes(F.relu6(self.expand(coarse)).mean(1)).log_softmax(-1)


class Reader(nn.Module):
    """Predicts the names' logits from a feature map.

    Args:
        config: The configuration of the full model.
    """

    def __init__(self, config: NameLlavaConfig):
        super().__init__()
        channels, width = config.vision_config.hidden_size, config.projector_width
        self.place = nn.Linear(channels, width // 8)
        self.layout = nn.Linear(config.projector_places * (width // 8), width)
        self.texture = nn.Linear(channels, width)
        self.dropout = nn.Dropout(config.projector_dropout)
        self.head = nn.Linear(width, config.projector_names - config.projector_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Computes logits of the learned names, ``[n, names]``, from maps of shape ``[n, places, channels]``."""
        layout = self.layout(F.gelu(self.place(features)).flatten(1))
        return self.head(self.dropout(F.gelu(layout) + F.gelu(self.texture(features)).mean(1)))


class NameProjector(nn.Module):
    """Maps a feature map to image tokens that are made of names' embeddings.

    Args:
        config: The configuration of the full model.
    """

    def __init__(self, config: NameLlavaConfig):
        super().__init__()
        self.sharpness, self.slots = config.projector_sharpness, config.projector_slots
        self.readers = nn.ModuleList(Reader(config) for _ in range(config.projector_readers))
        self.register_buffer("spread", torch.ones(config.vision_config.hidden_size))
        self.register_buffer("words", torch.zeros(config.projector_words, config.text_config.hidden_size))
        tokens = config.image_seq_length // config.projector_slots
        self.register_buffer("spelling", torch.zeros(config.projector_names, tokens, dtype=torch.long))
        self.classifier = TowerClassifier(*config.projector_classifier) if config.projector_classifier else None
        if self.classifier:
            self._add_calibration()

    def _add_calibration(self) -> None:
        readers = len(self.readers)
        self.register_buffer("scale", torch.ones(readers))
        self.register_buffer("none", torch.zeros(readers))

    def name_logits(self, features: Tensor) -> Tensor:
        """Computes each reader's logits of the names that it learns.

        Args:
            features: The tower's feature map, of shape ``[n, places, channels]``.

        Returns:
            Tensor: Shape ``[readers, n, names]``.
        """
        features = features / self.spread
        return torch.stack([reader(features) for reader in self.readers])

    def withheld(self, names: int) -> Tensor:
        """Tells which names' images each reader is trained without, ``[readers, names]``; it does not answer them."""
        return torch.arange(names) % len(self.readers) == torch.arange(len(self.readers))[:, None]

    def known_logits(self, logits: Tensor) -> Tensor:
        """Returns logits of shape ``[readers, n, names]`` without those of names that a reader does not know."""
        withheld = self.withheld(logits.shape[2]).to(logits.device)
        return logits.masked_fill(withheld[:, None], torch.finfo(logits.dtype).min)

    def _open_shares(self, logits: Tensor) -> Tensor:
        """Computes the log of the readers' shares of the names and, last, of none of them, ``[readers, n, names + 1]``.

        Args:
            logits: From ``name_logits``.
        """
        known = self.known_logits(logits * self.scale[:, None, None])
        none = self.none[:, None, None].expand(-1, logits.shape[1], -1)
        return torch.cat([known, none], -1).log_softmax(-1)

    def _reader_shares(self, features: Tensor) -> Tensor:
        """Computes the log of each name's share by reader, ``[readers, n, names]``."""
        logits = self.name_logits(features)
        if self.classifier is None:
            return logits.log_softmax(-1)
        shares = self._open_shares(logits)
        return torch.cat([shares[..., -1:] + self.classifier(features), shares[..., :-1]], -1)

    def log_shares(self, features: Tensor) -> Tensor:
        """Computes the log of each name's share, ``[n, names]``: the mean of the readers, in training of some of them.

        In training it is the less certain half of the readers for each image; with a tower's classifier a single
        reader, which follows from the features, so that all views of a run agree.
        """
        shares = self._reader_shares(features)
        if self.training and self.classifier is None:
            half = shares.amax(-1).argsort(0)[: math.ceil(len(shares) / 2)]
            shares = shares.gather(0, half[..., None].expand(-1, -1, shares.shape[-1]))
        elif self.training:
            turns = (features.float().abs().sum((1, 2)) * 1e3).long() % len(shares)
            return shares[turns, torch.arange(len(turns))]
        return shares.logsumexp(0) - math.log(len(shares))

    def _spelled(self, log_shares: Tensor) -> Tensor:
        """Distributes the slots among names by D'Hondt's rule, largest share first, ``[n, slots]``."""
        quotients, chosen = log_shares.exp(), []
        shares, rows = quotients, torch.arange(len(quotients))
        counts = torch.ones_like(shares)
        for _ in range(self.slots):
            best = quotients.argmax(-1)
            chosen.append(best)
            counts[rows, best] += 1
            quotients = shares / counts
        return torch.stack(chosen, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Computes image tokens of shape ``[n, tokens, hidden]``."""
        shares = self.log_shares(features)
        if self.slots > 1:
            return self.words[self.spelling[self._spelled(shares)].flatten(1)]
        mixture = (shares * self.sharpness).softmax(-1)
        return torch.einsum("nc,ctd->ntd", mixture, self.words[self.spelling])


class NameLlava(LlavaForConditionalGeneration):
    """LLaVA with a ``NameProjector`` as its projector."""

    config_class = NameLlavaConfig

    def __init__(self, config: NameLlavaConfig):
        super().__init__(config)
        self.model.multi_modal_projector = NameProjector(config)
        self.post_init()

    @torch.no_grad()
    def set_names(self, names: Sequence[Sequence[int]], fill: int) -> None:
        """Fills the dictionary, after the names of the tower's classes, and reinitialises the readers' last layers.

        Args:
            names: Token ids of each name, truncated to the number of image tokens for a name.
            fill: Token that pads shorter names.
        """
        config, projector = self.config, self.model.multi_modal_projector
        kept = projector.spelling[: config.projector_classes]
        self._spell(names, fill, projector.words if len(kept) else None, kept)
        config.projector_names = len(projector.spelling)
        for reader in projector.readers:
            reader.head = nn.Linear(reader.head.in_features, len(names)).to(projector.words)

    @torch.no_grad()
    def set_classifier(self, names: Sequence[Sequence[int]], fill: int, classifier: TowerClassifier) -> None:
        """Gives the projector the tower's own classifier, and fills the dictionary with its classes' names.

        Args:
            names: Token ids of each class's name, truncated to the number of image tokens for a name.
            fill: Token that pads shorter names.
            classifier: As many classes as names.
        """
        config, projector = self.config, self.model.multi_modal_projector
        expand, classes = classifier.expand, classifier.classes
        config.projector_classifier = [expand.in_features, expand.out_features, classes.out_features]
        projector.classifier = classifier
        projector._add_calibration()
        self._spell(names, fill, None, projector.spelling[:0])
        self.set_names([], fill)

    def _spell(self, names: Sequence[Sequence[int]], fill: int, words: Tensor | None, kept: Tensor) -> None:
        """Adds names to the kept rows of the dictionary; its words are those of the kept rows, or None."""
        projector, embeddings = self.model.multi_modal_projector, self.get_input_embeddings().weight
        count = projector.spelling.shape[1]
        rows = torch.tensor([[*ids[:count], *[fill] * (count - len(ids))] for ids in names], dtype=torch.long)
        used, spelling = rows.view(-1, count).unique(return_inverse=True)
        added = embeddings[used.to(embeddings.device)].clone()
        offset = 0 if words is None else len(words)
        projector.spelling = torch.cat([kept, spelling.to(kept) + offset])
        projector.words = added if words is None else torch.cat([words, added])
        self.config.projector_words = len(projector.words)


AutoConfig.register("name_llava", NameLlavaConfig, exist_ok=True)
AutoModelForImageTextToText.register(NameLlavaConfig, NameLlava, exist_ok=True)
