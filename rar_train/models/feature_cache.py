"""A frozen vision tower's features, kept on disk by what the tower was shown.

A tower that does not train gives the same features for the same pixels in every epoch, for every
objective and in every run, and it is often half of a step. Kept are the last hidden state and the
layers that the model reads, a file per image, with a checksum.
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
from data_prep.embedding.encoder import state_hash
from data_prep.settings import LoraArgs
from rar_train.models.mllm import Mllm

log = logging.getLogger(__name__)


class FeatureCache:
    """Stands in for a tower's forward pass and computes only what is not on disk.

    Args:
        tower: The tower; frozen and in eval mode.
        layers: Hidden states that the model reads, by index; none where it reads the last alone.
        folder: Where features are kept.
    """

    def __init__(self, tower: nn.Module, layers: list[int], folder: Path):
        self.compute, self.layers, self.folder = tower.forward, layers, folder
        self.computed = 0
        tower.forward = self

    def _path(self, image: Tensor) -> Path:
        shown = image.contiguous().view(torch.uint8).cpu().numpy()
        digest = hashlib.sha256(repr((image.dtype, tuple(image.shape))).encode() + shown.tobytes()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"

    @torch.no_grad()
    def __call__(self, pixel_values: Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """The tower's output for images of shape ``[n, 3, height, width]``."""
        paths = [self._path(image) for image in pixel_values]
        found = {path: _load(path) for path in dict.fromkeys(paths)}
        missing = [paths.index(path) for path, features in found.items() if features is None]
        if missing:
            self.computed += len(missing)
            output = self.compute(pixel_values[missing], **(kwargs | {"output_hidden_states": True}))
            depth = len(output.hidden_states)
            for row, place in enumerate(missing):
                kept = {str(layer % depth): output.hidden_states[layer][row] for layer in self.layers}
                features = {"last": output.last_hidden_state[row], "depth": torch.tensor(depth)} | kept
                _save(paths[place], features)
                found[paths[place]] = features
        return self._joined([found[path] for path in paths], pixel_values.device)

    def _joined(self, rows: list[dict[str, Tensor]], device: torch.device) -> BaseModelOutputWithPooling:
        joined = {key: torch.stack([row[key].to(device) for row in rows]) for key in rows[0] if key != "depth"}
        states = [joined.get(str(layer)) for layer in range(int(rows[0]["depth"]))]
        return BaseModelOutputWithPooling(last_hidden_state=joined["last"], hidden_states=tuple(states))


def _checksum(features: dict[str, Tensor]) -> dict[str, str]:
    """What a file's metadata says of its tensors."""
    found = hashlib.sha256()
    for key, value in sorted(features.items()):
        found.update(f"{key} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.flatten().view(torch.uint8).numpy())
    return {"sha256": found.hexdigest()}


def _load(path: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            features = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            whole = file.metadata() == _checksum(features)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError):
        whole = False
    if not whole:
        log.warning("vision features: %s is damaged; it is computed again", path)
    return features if whole else None


def _save(path: Path, features: dict[str, Tensor]) -> None:
    # Copies: rows of one tensor share its memory, and a layer may be the last state itself.
    copies = {key: value.detach().cpu().contiguous().clone() for key, value in features.items()}
    part = part_path(path)
    with write_errors(path, part, "what was computed before is kept"):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(copies, part, _checksum(copies))
        os.replace(part, path)


def cache_features(mllm: Mllm, cache: Path, lora: LoraArgs) -> FeatureCache:
    """Keeps the tower's features from now on.

    Args:
        mllm: The base model.
        cache: The recipe's cache folder.
        lora: Says whether the tower trains.

    Raises:
        UserError: The tower trains, or its features depend on more than one image's pixels.
    """
    if "vision" in lora.scope:
        raise UserError(
            f"trainer.feature_cache=true, but the vision tower trains (ranker.lora.scope={lora.scope}); its features "
            "change with every step. Leave one of the two out"
        )
    if not mllm.family.fixed_tower:
        raise UserError(
            f"trainer.feature_cache=true: the vision tower of {mllm.id} takes images of any size together, so its "
            "features are not kept; set it to false"
        )
    config = mllm.base.config.to_dict()
    layers = config.get("vision_feature_layer", [])
    layers = [layers] if isinstance(layers, int) else layers
    tower = mllm.base.get_submodule(mllm.family.vision)
    # By the tower alone: models that share it, such as a projector's stages, share its features.
    folder = cache / f"features-{fingerprint([tower.config.to_dict(), state_hash(tower), layers])}"
    log.info("vision features: kept in %s", folder)
    return FeatureCache(tower, layers, folder)
