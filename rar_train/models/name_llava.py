"""A LLaVA whose image tokens spell the names that a picture may bear.

LLaVA's projector teaches a language model to read a tower's features, from hundreds of thousands of captions. With
thousands of labelled pictures it is cheaper to write in the language model's own words: the projector reads the tower's
whole map, weighs the names in its dictionary, and gives as image tokens the names' word embeddings in that mixture,
after AlignVLM (arXiv 2502.01341), which mixes single words. The language model finds the words in its prompt before
it was ever tuned, and no pass through it is needed to train the projector.

What a projector says of the pictures that it was trained on is not only right but certain, and of a new picture it is
neither. So there are several readers, each trained without a share of the pictures: together they read a new picture;
in training the less certain half of them reads, which is mostly right and yet in doubt, so that a ranker learns to find
the largest share in a mixture.

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
    """LLaVA's, and the projector's sizes; ``image_seq_length`` is the number of tokens that it gives.

    Args:
        projector_places: Places of the tower's map.
        projector_readers: How many read it.
        projector_width: Of a reader's hidden layer.
        projector_dropout: Before a reader's last layer, in training.
        projector_names: Entries of its dictionary.
        projector_words: Different tokens in them.
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
    """From a map to the names' weights.

    Args:
        config: Of the whole model.
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
        """Logits of shape ``[n, names]`` from maps of shape ``[n, places, channels]``."""
        layout = self.layout(F.gelu(self.place(features)).flatten(1))
        return self.head(self.dropout(F.gelu(layout) + F.gelu(self.texture(features)).mean(1)))


class NameProjector(nn.Module):
    """From a map to tokens that spell a mixture of names.

    Args:
        config: Of the whole model.
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
        """How well each name of the dictionary fits, by each reader.

        Args:
            features: The tower's map, of shape ``[n, places, channels]``.

        Returns:
            Tensor: Shape ``[readers, n, names]``.
        """
        features = features / self.spread
        return torch.stack([reader(features) for reader in self.readers])

    def log_shares(self, features: Tensor) -> Tensor:
        """Logarithm of each name's share, ``[n, names]``: the readers' mean; in training the less certain half's."""
        shares = self.name_logits(features).log_softmax(-1)
        if self.training:
            half = shares.amax(-1).argsort(0)[: math.ceil(len(shares) / 2)]
            shares = shares.gather(0, half[..., None].expand(-1, -1, shares.shape[-1]))
        return shares.logsumexp(0) - math.log(len(shares))

    def forward(self, features: Tensor) -> Tensor:
        """Image tokens of shape ``[n, tokens, hidden]``."""
        mixture = (self.log_shares(features) * self.sharpness).softmax(-1)
        return torch.einsum("nc,ctd->ntd", mixture, self.words[self.spelling])


class NameLlava(LlavaForConditionalGeneration):
    """LLaVA with a ``NameProjector``."""

    config_class = NameLlavaConfig

    def __init__(self, config: NameLlavaConfig):
        super().__init__(config)
        self.model.multi_modal_projector = NameProjector(config)
        self.post_init()

    @torch.no_grad()
    def set_names(self, names: Sequence[Sequence[int]], fill: int) -> None:
        """Fills the dictionary; the layers that weigh its entries start anew.

        Args:
            names: Token ids of each name. What is longer than the image tokens is cut.
            fill: The token behind the end of shorter ones.
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
