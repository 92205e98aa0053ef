"""Table of the supported MLLM families: everything that differs between them, read by one backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn
from transformers import ProcessorMixin

from rar_train.families.image_sizes import (
    area_budget,
    crop_budget,
    edge_budget,
    grid_budget,
    longest_edge_budget,
    rename_area_limits,
    slice_budget,
    soft_token_budget,
    tile_budget,
    token_budget,
    volume_budget,
)


@dataclass(frozen=True)
class Family:
    """Properties of a family, with module names as in transformers 5.

    Attributes:
        language: Regular expression of the language model's linear layers. Routed experts are no layers: their weights
            are parameters, which ``ranker.lora.target_modules`` matches by name.
        projector: Regular expression of the projector's linear layers; None where it has none, so that LoRA does not
            fit and only full training remains.
        tower: Regular expression of the vision tower's layers.
        by_name: Whether peft is given names of layers instead of a regular expression, which it would replace by the
            last parts of the names, and ``gate_proj``, ``up_proj`` and ``down_proj`` by all routed experts.
        connector: Module path of the projector.
        other_connectors: Module paths of further projectors, for other layers of the tower or the language model.
        vision: Module path of the vision tower.
        turn_end: The token that ends the assistant's turn; None where the chat template writes it, or else where it is
            the tokenizer's end of sequence.
        template: Chat template for families that ship none.
        suffix: Whether the processor takes answers separately from the text and marks them by token type.
        bidirectional: Which tokens see those after them: ``none``, those of each ``image``, those of all ``images``
            together, those of each image in ``sliding`` layers alone if the text configuration says so, or the whole
            ``prompt``.
        softcap: Whether the logits are capped by the text configuration's ``final_logit_softcapping``.
        scaled: Whether the logits are divided by the text configuration's ``logits_scaling``.
        mrope: Whether positions have three components (M-RoPE), so that an image takes fewer positions than tokens.
        rename_sizes: Renames size settings in older files to what the processor reads; None where names never changed.
        budget: Applies a maximum number of pixels per image; None where the size is fixed.
        found: Whether it was found in a model outside the table, which is then checked when it is loaded.
        fixed_tower: Whether the tower embeds images of one size, each independently, so that features can be cached.
    """

    language: str = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    projector: str | None = r".*multi_modal_projector\.linear(_[12])?"
    tower: str = r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|projection_layer|fc1|fc2)"
    by_name: bool = False
    connector: str = "model.multi_modal_projector"
    other_connectors: tuple[str, ...] = ()
    vision: str = "model.vision_tower"
    turn_end: str | None = None
    template: str | None = None
    suffix: bool = False
    bidirectional: str = "none"
    softcap: bool = False
    scaled: bool = False
    mrope: bool = False
    rename_sizes: Callable[[ProcessorMixin], None] | None = None
    budget: Callable[[ProcessorMixin, nn.Module, int], None] | None = None
    found: bool = False
    fixed_tower: bool = True


_QWEN = Family(
    projector=r".*visual\.(merger|deepstack_merger_list\.\d+)\.(mlp\.[02]|linear_fc[12])",
    tower=r".*visual\.blocks\..*\.(qkv|proj|fc1|fc2|gate_proj|up_proj|down_proj|linear_fc[12])",
    connector="model.visual.merger",
    other_connectors=("model.visual.deepstack_merger_list",),
    vision="model.visual",
    mrope=True,
    rename_sizes=rename_area_limits,
    budget=area_budget,
    fixed_tower=False,
)
_IDEFICS = Family(
    language=r".*text_model.*\.(q|k|v|o|gate|up|down)_proj",
    projector=r".*connector\.modality_projection\.proj",
    tower=r".*vision_model.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)",
    connector="model.connector",
    vision="model.vision_model",
    turn_end="<end_of_utterance>",
    budget=edge_budget,
    fixed_tower=False,  # its output depends on a padding mask in addition to the pixels
)
_LINEAR = r".*language_model.*\.((q|k|v|o|out|gate|up|down)_proj|in_proj_\w+)"
_QWEN3_5 = replace(_QWEN, language=_LINEAR)
_GLM = Family(
    language=r".*language_model.*\.(q|k|v|o|gate|up|down|gate_up)_proj",
    projector=r".*visual\.merger\.(proj|gate_proj|up_proj|down_proj)",
    tower=r".*visual\.blocks\..*\.(qkv|proj|gate_proj|up_proj|down_proj)",
    connector="model.visual.merger",
    vision="model.visual",
    turn_end="<|user|>",  # an answer ends where the next turn begins
    mrope=True,
    budget=volume_budget,
    fixed_tower=False,
)
_MINICPM = Family(
    language=_LINEAR,
    projector=r".*model\.merger\.mlp\.\d+\.linear_[12]",
    tower=r".*vision_tower.*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2|linear_[12])",
    connector="model.merger",
    budget=slice_budget,
    fixed_tower=False,
)
_GEMMA = Family(
    projector=r".*embed_vision\.embedding_projection",
    connector="model.embed_vision",
    softcap=True,
    fixed_tower=False,
)
_PALIGEMMA_TEMPLATE = (
    "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}"
)

FAMILIES = {
    "llava": Family(),
    "name_llava": Family(projector=r".*multi_modal_projector\.readers\.\d+\.(place|layout|texture|head)"),
    "llava_next": Family(budget=grid_budget),
    "llava_onevision": Family(budget=grid_budget),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "qwen3_vl_moe": _QWEN,
    "qwen3_5": _QWEN3_5,
    "qwen3_5_moe": _QWEN3_5,
    "internvl": Family(budget=tile_budget),
    "idefics3": _IDEFICS,
    "smolvlm": _IDEFICS,
    "gemma3": Family(projector=None, turn_end="<end_of_turn>", bidirectional="image"),
    "paligemma": Family(template=_PALIGEMMA_TEMPLATE, suffix=True, bidirectional="prompt", softcap=True),
    "gemma3n": replace(
        _GEMMA,
        # Pointwise convolutions: the padding of the others depends on the image's size.
        tower=r".*timm_model\.(blocks|msfa)\..*\.((query|key|value|output)\.proj|pw_(exp|proj)\.conv|conv_pwl)",
        turn_end="<end_of_turn>",
    ),
    "gemma4": replace(
        _GEMMA,
        tower=r".*vision_tower\.encoder.*\.(q|k|v|o|gate|up|down)_proj\.linear",
        turn_end="<turn|>",
        bidirectional="sliding",
        budget=soft_token_budget,
    ),
    "mistral3": Family(
        projector=r".*multi_modal_projector\.(linear_[12]|patch_merger\.merging_layer)",
        tower=r".*vision_tower\.transformer.*\.(q|k|v|o|gate|up|down)_proj",
        budget=longest_edge_budget,
        fixed_tower=False,
    ),
    "glm4v": _GLM,
    "glm4v_moe": replace(
        _GLM,
        language=r".*language_model.*\.(q|k|v|o)_proj",
        projector=r".*visual\.merger\.proj",
        tower=r".*visual\.blocks\..*\.(qkv|proj)",
        by_name=True,
    ),
    "glm46v": _GLM,
    "minicpmv4_6": _MINICPM,
    "minicpmv4_7": replace(_MINICPM, mrope=True),
    "lfm2_vl": Family(
        language=r".*language_model.*\.(q_proj|k_proj|v_proj|out_proj|in_proj|w[123])",
        turn_end="<|im_end|>",
        budget=token_budget,
        fixed_tower=False,
    ),
    "granite4_vision": Family(
        projector=r".*(layerwise|spatial)_projectors\..*\.(query|key|value|dense|out_linear)",
        connector="model.layerwise_projectors",
        other_connectors=("model.spatial_projectors",),
        scaled=True,
        budget=grid_budget,
        fixed_tower=False,
    ),
    "molmo2": Family(
        projector=r".*multi_modal_projector\..*\.(q|k|v|o|gate|up|down)_proj",
        tower=r".*vision_tower\..*\.(q_proj|k_proj|v_proj|o_proj|fc1|fc2)",
        bidirectional="images",
        budget=crop_budget,
        fixed_tower=False,
    ),
}
"""Families by the ``model_type`` of a model's configuration."""
