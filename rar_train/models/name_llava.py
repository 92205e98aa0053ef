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
    """

    model_type = "name_llava"

    projector_places: int = 25
    projector_readers: int = 4
    projector_width: int = 512
    projector_dropout: float = 0.4
    projector_names: int = 1
    projector_words: int = 1
    projector_sharpness: float = 4.0


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
        self.head = nn.Linear(width, config.projector_names)

    def forward(self, features: Tensor) -> Tensor:
        """Computes logits of shape ``[n, names]`` from maps of shape ``[n, places, channels]``."""
        layout = self.layout(F.gelu(self.place(features)).flatten(1))
        return self.head(self.dropout(F.gelu(layout) + F.gelu(self.texture(features)).mean(1)))


class NameProjector(nn.Module):
    """Maps a feature map to image tokens that are a mixture of names' embeddings.

    Args:
        config: The configuration of the full model.
    """

    def __init__(self, config: NameLlavaConfig):
        super().__init__()
        self.sharpness = config.projector_sharpness
        self.readers = nn.ModuleList(Reader(config) for _ in range(config.projector_readers))
        self.register_buffer("spread", torch.ones(config.vision_config.hidden_size))
        self.register_buffer("words", torch.zeros(config.projector_words, config.text_config.hidden_size))
        spelling = torch.zeros(config.projector_names, config.image_seq_length, dtype=torch.long)
        self.register_buffer("spelling", spelling)

    def name_logits(self, features: Tensor) -> Tensor:
        """Computes each reader's logits of the names in the dictionary.

        Args:
            features: The tower's feature map, of shape ``[n, places, channels]``.

        Returns:
            Tensor: Shape ``[readers, n, names]``.
        """
        features = features / self.spread
        return torch.stack([reader(features) for reader in self.readers])

    def log_shares(self, features: Tensor) -> Tensor:
        """Computes the log of each name's share, ``[n, names]``: the mean of the readers, in training of half of them.

        In training it is the less certain half of the readers for each image.
        """
        shares = self.name_logits(features).log_softmax(-1)
        if self.training:
            half = shares.amax(-1).argsort(0)[: math.ceil(len(shares) / 2)]
            shares = shares.gather(0, half[..., None].expand(-1, -1, shares.shape[-1]))
        return shares.logsumexp(0) - math.log(len(shares))

    def forward(self, features: Tensor) -> Tensor:
        """Computes image tokens of shape ``[n, tokens, hidden]``."""
        mixture = (self.log_shares(features) * self.sharpness).softmax(-1)
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
        """Fills the dictionary and reinitialises the readers' last layers.

        Args:
            names: Token ids of each name, truncated to the number of image tokens.
            fill: Token that pads shorter names.
        """
        count, config = self.config.image_seq_length, self.config
        rows = torch.tensor([[*ids[:count], *[fill] * (count - len(ids))] for ids in names])
        used, spelling = rows.unique(return_inverse=True)
        config.projector_names, config.projector_words = len(names), len(used)
        projector, embeddings = self.model.multi_modal_projector, self.get_input_embeddings().weight
        projector.spelling = spelling.to(embeddings.device)
        projector.words = embeddings[used.to(embeddings.device)].clone()
        for reader in projector.readers:
            reader.head = nn.Linear(reader.head.in_features, len(names)).to(embeddings)


AutoConfig.register("name_llava", NameLlavaConfig, exist_ok=True)
AutoModelForImageTextToText.register(NameLlavaConfig, NameLlava, exist_ok=True)
