"""On-disk cache of a frozen vision tower's features, keyed by the pixels of the image.

A tower that is not trained gives the same features for the same pixels in every epoch and every run. The cache stores
the last hidden state and the layers that the model reads, one file per image, with a checksum.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, part_path
from data_prep.core.saving import write_errors
from data_prep.embedding.identity import state_hash
from data_prep.settings import LoraArgs
from rar_train.models.mllm import Mllm

log = logging.getLogger(__name__)


class FeatureCache:
    """Replaces a tower's forward pass and computes only features that are not on disk.

    Args:
        tower: The tower; frozen and in eval mode.
        layers: Indices of the hidden states that the model reads; empty where it reads only the last.
        folder: Cache folder.
    """

    def __init__(self, tower: nn.Module, layers: list[int], folder: Path):
        self.compute, self.layers, self.folder = tower.forward, layers, folder
        self.computed = 0
        tower.forward = self

    def _path(self, image: Tensor) -> Path:
        pixels = image.contiguous().view(torch.uint8).cpu().numpy()
        digest = hashlib.sha256(repr((image.dtype, tuple(image.shape))).encode() + pixels.tobytes()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"

    @torch.no_grad()
    def __call__(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Returns the tower's output for images of shape ``[n, 3, height, width]``."""
        paths = [self._path(image) for image in pixel_values]
        features_by_path = {path: _load(path) for path in dict.fromkeys(paths)}
        missing = [paths.index(path) for path, features in features_by_path.items() if features is None]
        if missing:
            self.computed += len(missing)
            output = self.compute(pixel_values[missing], **(kwargs | {"output_hidden_states": True}))
            depth = len(output.hidden_states)
            for row, index in enumerate(missing):
                layers = {str(layer % depth): output.hidden_states[layer][row] for layer in self.layers}
                features = {"last": output.last_hidden_state[row], "depth": torch.tensor(depth)} | layers
                _save(paths[index], features)
                features_by_path[paths[index]] = features
        return self._stack([features_by_path[path] for path in paths], pixel_values.device)

    def _stack(self, rows: list[dict[str, Tensor]], device: torch.device) -> BaseModelOutputWithPooling:
        stacked = {key: torch.stack([row[key].to(device) for row in rows]) for key in rows[0] if key != "depth"}
        states = [stacked.get(str(layer)) for layer in range(int(rows[0]["depth"]))]
        return BaseModelOutputWithPooling(last_hidden_state=stacked["last"], hidden_states=tuple(states))


def _checksum(features: dict[str, Tensor]) -> dict[str, str]:
    """Returns the metadata of a file: the SHA-256 of its tensors."""
    digest = hashlib.sha256()
    for key, value in sorted(features.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return {"sha256": digest.hexdigest()}


def _load(path: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            features = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            intact = file.metadata() == _checksum(features)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        intact = False
    if not intact:
        log.warning("vision features: %s is damaged and will be recomputed", path)
    return features if intact else None


def _save(path: Path, features: dict[str, Tensor]) -> None:
    # Copied, since rows of one tensor share its memory, and a layer may be the last hidden state itself.
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in features.items()}
    part = part_path(path)
    with write_errors(path, part, "features computed before are kept"):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(copies, part, _checksum(copies))
        os.replace(part, path)


def cache_features(mllm: Mllm, cache: Path, lora: LoraArgs) -> FeatureCache:
    """Turns on caching of the tower's features.

    Args:
        mllm: The base model.
        cache: The recipe's cache folder.
        lora: LoRA settings, whose scope says whether the tower is trained.

    Raises:
        UserError: The tower is trained, or its features depend on more than one image's pixels.
    """
    if "vision" in lora.scope:
        raise UserError(
            f"trainer.feature_cache=true, but the vision tower is trained (ranker.lora.scope={lora.scope}), so its "
            "features change with every step; drop one of the two settings"
        )
    if not mllm.family.fixed_tower:
        raise UserError(
            f"trainer.feature_cache=true: the vision tower of {mllm.id} takes images of any size together, so its "
            "features can't be cached; set it to false"
        )
    config = mllm.base.config.to_dict()
    layers = config.get("vision_feature_layer", [])
    layers = [layers] if isinstance(layers, int) else layers
    tower = mllm.base.get_submodule(mllm.family.vision)
    # Keyed by the tower only: models that share it, such as a projector's stages, share its features.
    folder = cache / f"features-{fingerprint([tower.config.to_dict(), state_hash(tower), layers])}"
    log.info("vision features: cached in %s", folder)
    return FeatureCache(tower, layers, folder)
