"""The head of jina-reranker-m0, which reads the hidden state of a token after the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from data_prep.core.errors import UserError

# As the code beside its weights; the bias is subtracted from the head's output.
JINA, JINA_TOKEN, _JINA_BIAS = "JinaVLForRanking", 100, 2.65


@dataclass(frozen=True)
class ScoreHead:
    """A reranker's head: two linear layers with a ReLU between them, and a bias to subtract; it is not trained.

    Attributes:
        layers: Weight and bias of each layer, in float32.
        bias: The bias.
    """

    layers: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    bias: float

    def __call__(self, states: Tensor) -> Tensor:
        """Computes scores ``[p]`` of hidden states ``[p, width]``."""
        (first, first_bias), (last, last_bias) = ((w.to(states.device), b.to(states.device)) for w, b in self.layers)
        with torch.autocast(states.device.type, enabled=False):
            hidden = F.linear(states.float(), first, first_bias).relu()
            return F.linear(hidden, last, last_bias)[:, 0] - self.bias


def read_head(model: str, folder: Path) -> ScoreHead:
    """Reads a reranker's head from its model's files.

    Raises:
        UserError: Weights are missing.
    """
    names = [f"score.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")]
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name).float() for name in names if name in file.keys()}  # noqa: SIM118
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"ranker.model={model}: its files lack {missing[0]}, a weight of the reranker's head")
    first, last = ((found[f"score.{layer}.weight"], found[f"score.{layer}.bias"]) for layer in (0, 2))
    return ScoreHead((first, last), _JINA_BIAS)
