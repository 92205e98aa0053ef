"""Separates an open_clip model's linear projections from its towers, which stay the same when projections are tuned."""

from __future__ import annotations

import copy

from torch import nn


def without_projections(model: nn.Module) -> nn.Module | None:
    """Returns a copy of a model whose embeddings are its towers' features.

    Returns:
        nn.Module | None: None where the projections are not separate from the towers, or have a bias or more than one
        layer: only for a model of a timm image tower and a Hugging Face text tower are they known to be.
    """
    from open_clip.hf_model import HFTextEncoder
    from open_clip.model import CustomTextCLIP
    from open_clip.timm_model import TimmModel

    if not (
        isinstance(model, CustomTextCLIP)
        and isinstance(model.visual, TimmModel)
        and isinstance(model.text, HFTextEncoder)
    ):
        return None
    heads = [layer for layer in model.visual.head.modules() if isinstance(layer, nn.Linear)]
    if len(heads) != 1 or not isinstance(model.text.proj, nn.Linear):
        return None
    if heads[0].bias is not None or model.text.proj.bias is not None:
        return None
    towers = copy.deepcopy(model)
    towers.visual.head, towers.text.proj = nn.Identity(), nn.Identity()
    towers.logit_scale = None  # it is tuned with the projections, and features do not depend on it
    return towers
