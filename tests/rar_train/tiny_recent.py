"""Tiny models of the families of 2025 and 2026; see ``tiny_families``."""

from __future__ import annotations

import transformers as hf

from tests.rar_train.tiny_gemma import GEMMAS
from tests.rar_train.tiny_parts import (
    PATCH,
    SQUARE,
    TEXT,
    TEXTS,
    TILE,
    TOWER,
    WIDTH,
    Tiny,
    chatml,
    text_config,
    token_ids,
)

EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


def _mrope(tokenizer, **changes) -> dict:
    """Makes the text configuration of a family with M-RoPE as a dictionary."""
    text = text_config(tokenizer).to_dict()
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    return {key: text[key] for key in (*TEXT, "vocab_size")} | {"rope_parameters": rope} | changes


def _areas(patch: int) -> dict:
    """Returns the settings of an image processor with limits on the area."""
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (8 * patch) ** 2}
    return {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2, "size": size}


def _qwen(name: str, text: dict, vision: dict):
    def build(tokenizer):
        ids = {f"{kind}_token_id": f"<|{kind}_pad|>" for kind in ("image", "video")}
        ids |= {f"vision_{side}_token_id": f"<|vision_{side}|>" for side in ("start", "end")}
        tower = {
            "depth": 2,
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "out_hidden_size": WIDTH,
            "num_heads": 2,
            "patch_size": PATCH,
            "num_position_embeddings": 16,
        }
        config = getattr(hf, f"{name}Config")(
            text_config=_mrope(tokenizer, **text), vision_config=tower | vision, **token_ids(tokenizer, **ids)
        )
        images, videos = hf.Qwen2VLImageProcessor(**_areas(PATCH)), hf.Qwen3VLVideoProcessor(patch_size=PATCH)
        return getattr(hf, f"{name}ForConditionalGeneration")(config), hf.Qwen3VLProcessor(images, tokenizer, videos)

    return build


def _glm(name: str, processor: str, text: dict):
    def build(tokenizer):
        markers = {
            f"{kind}_{side}_token_id": f"<|{word}_of_{kind}|>"
            for kind in ("image", "video")
            for side, word in (("start", "begin"), ("end", "end"))
        }
        ids = token_ids(tokenizer, image_token_id="<|image|>", video_token_id="<|video|>", **markers)
        tower = {
            "depth": 2,
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "out_hidden_size": WIDTH,
            "num_heads": 2,
            "image_size": TILE,
            "patch_size": PATCH,
        }
        config = getattr(hf, f"{name}Config")(text_config=_mrope(tokenizer, **text), vision_config=tower, **ids)
        images = getattr(hf, f"{processor}ImageProcessor")(**_areas(PATCH))
        videos = getattr(hf, f"{processor}VideoProcessor")(patch_size=PATCH)
        model = getattr(hf, f"{name}ForConditionalGeneration")(config)
        return model, getattr(hf, f"{processor}Processor")(images, tokenizer, videos)

    return build


def _mistral3(text: type):
    def build(tokenizer):
        config = hf.Mistral3Config(
            vision_config=hf.PixtralVisionConfig(**(TOWER | {"image_size": 8 * TILE, "head_dim": 16})),
            text_config=text_config(tokenizer, text),
            image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
            spatial_merge_size=2,
            tie_word_embeddings=False,
        )
        images = hf.PixtralImageProcessor(patch_size={"height": PATCH, "width": PATCH}, size={"longest_edge": 8 * TILE})
        processor = hf.PixtralProcessor(images, tokenizer, patch_size=PATCH, spatial_merge_size=2)
        return hf.Mistral3ForConditionalGeneration(config), processor

    return build


def _lfm2(tokenizer):
    config = hf.Lfm2VlConfig(
        vision_config=hf.Siglip2VisionConfig(**(TOWER | {"num_patches": 16, "vision_use_head": False})),
        text_config=text_config(tokenizer, hf.Lfm2Config, layer_types=["conv", "full_attention"], block_multiple_of=8),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=WIDTH,
    )
    images = hf.Lfm2VlImageProcessor(
        size=SQUARE,
        tile_size=TILE,
        encoder_patch_size=PATCH,
        min_image_tokens=4,
        max_image_tokens=16,
        max_tiles=4,
    )
    return hf.Lfm2VlForConditionalGeneration(config), hf.Lfm2VlProcessor(images, tokenizer)


def _granite4(tokenizer):
    pinpoints = [[TILE, 2 * TILE], [2 * TILE, TILE], [3 * TILE, 3 * TILE]]
    config = hf.Granite4VisionConfig(
        vision_config=hf.SiglipVisionConfig(**(TOWER | {"hidden_size": 64}), vision_use_head=False),
        text_config=text_config(
            tokenizer, hf.Granite4VisionTextConfig, num_hidden_layers=6, attention_multiplier=0.25, logits_scaling=2.0
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        downsample_rate="2/4",
        vision_feature_select_strategy="full",
        deepstack_layer_map=[[-1, 0], [-2, 1]],
        spatial_target_layers=[2, 3, 4, 5],
    )
    images = hf.LlavaNextImageProcessor(size=SQUARE, crop_size=SQUARE, image_grid_pinpoints=pinpoints)
    return hf.Granite4VisionForConditionalGeneration(config), hf.Granite4VisionProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="full", downsample_rate="2/4"
    )


def _molmo2(tokenizer):
    config = hf.Molmo2Config(
        vision_config={
            **{key: value for key, value in TOWER.items() if key != "image_size"},
            "image_size": [TILE, TILE],
            "num_key_value_heads": 2,
            "head_dim": 16,
            "initializer_range": 0.2,
        },
        adapter_config={
            "hidden_size": WIDTH,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "text_hidden_size": WIDTH,
            "vision_feature_layer": [-1, -2],
            "initializer_range": 0.2,
        },
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer) - 8,
            "additional_vocab_size": 8,
        },
        **token_ids(
            tokenizer,
            image_start_token_id="<im_start>",
            low_res_image_start_token_id="<low_res_im_start>",
            image_end_token_id="<im_end>",
            image_patch_id="<im_patch>",
            frame_start_token_id="<frame_start>",
            frame_end_token_id="<frame_end>",
        ),
        initializer_range=0.2,
    )
    images = hf.Molmo2ImageProcessor(size=SQUARE, patch_size=PATCH, max_crops=3, overlap_margins=[1, 1])
    videos = hf.Molmo2VideoProcessor(size=SQUARE, patch_size=PATCH)
    return hf.Molmo2ForConditionalGeneration(config), hf.Molmo2Processor(images, videos, tokenizer)


def _minicpm(name: str):
    def build(tokenizer):
        text = _mrope(tokenizer, **LINEAR) | {"model_type": "qwen3_5_text"}
        ids = token_ids(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>")
        if name == "MiniCPMV4_7":
            ids |= token_ids(
                tokenizer,
                image_start_id="<image>",
                image_end_id="</image>",
                slice_start_id="<slice>",
                slice_end_id="</slice>",
                newline_id="Ċ",
            )
        config = getattr(hf, f"{name}Config")(
            text_config=text,
            vision_config=TOWER,
            insert_layer_id=0,
            image_size=TILE,
            **ids,
        )
        settings = {"patch_size": PATCH, "scale_resolution": TILE, "max_slice_nums": 4}
        images, videos = hf.MiniCPMV4_6ImageProcessor(**settings), hf.MiniCPMV4_6VideoProcessor(**settings)
        processor = getattr(hf, f"{name}Processor")(images, videos, tokenizer)
        return getattr(hf, f"{name}ForConditionalGeneration")(config), processor

    return build


_IM = ("<|im_start|>", "<|im_end|>")
_QWEN_TOKENS = (*_IM, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_QWEN = {"special": _QWEN_TOKENS, "eos": "<|im_end|>"}
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_GLM_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% for part in message['content'] if part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% endfor %}" + TEXTS + "{% if message['role'] == 'assistant' %}<|user|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_GLM = {
    "template": _GLM_TEMPLATE,
    "special": (
        "[gMASK]",
        "<sop>",
        "<|user|>",
        "<|assistant|>",
        "<|begin_of_image|>",
        "<|end_of_image|>",
        "<|begin_of_video|>",
        "<|end_of_video|>",
        "<|image|>",
        "<|video|>",
    ),
    "eos": "<|endoftext|>",
    "end": "<|user|>",
}
_MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}[/INST]{% else %}" + TEXTS + "{{ eos_token }}{% endif %}{% endfor %}"
)
_MISTRAL3 = {"template": _MISTRAL, "special": ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")}
_GRANITE = (
    "{% for message in messages %}<|start_of_role|>{{ message['role'] }}<|end_of_role|>"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}" + TEXTS + "<|end_of_text|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
_MINICPM = {
    "special": (*_IM, "<think>", "</think>"),
    "named": {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    },
    "eos": "<|im_end|>",
}

TINY_RECENT = {
    "qwen3_vl_moe": Tiny(
        _qwen("Qwen3VLMoe", EXPERTS | {"num_experts": 4}, {"deepstack_visual_indexes": [0]}),
        chatml(_QWEN_IMAGE),
        **_QWEN,
    ),
    "qwen3_5": Tiny(_qwen("Qwen3_5", LINEAR, {}), chatml(_QWEN_IMAGE, thinks=True), **_QWEN),
    "qwen3_5_moe": Tiny(
        _qwen("Qwen3_5Moe", LINEAR | EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 16}, {}),
        chatml(_QWEN_IMAGE, thinks=True),
        **_QWEN,
    ),
    "glm4v": Tiny(_glm("Glm4v", "Glm4v", {}), **_GLM),
    "glm4v_moe": Tiny(_glm("Glm4vMoe", "Glm4v", EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 1}), **_GLM),
    "glm46v": Tiny(_glm("Glm46V", "Glm46V", {"model_type": "glm4v_text"}), **_GLM),
    "mistral3": Tiny(_mistral3(hf.Ministral3Config), **_MISTRAL3),
    "lfm2_vl": Tiny(
        _lfm2,
        chatml("<image>"),
        (*_IM, *(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5))),
        {
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail_token": "<|img_thumbnail|>",
        },
        eos="<|im_end|>",
    ),
    "granite4_vision": Tiny(
        _granite4, _GRANITE, ("<|start_of_role|>", "<|end_of_role|>", "<image>"), eos="<|end_of_text|>"
    ),
    "molmo2": Tiny(
        _molmo2,
        chatml("<|image|>"),
        (
            *_IM,
            "<|image|>",
            "<|video|>",
            "<im_patch>",
            "<im_col>",
            "<im_start>",
            "<low_res_im_start>",
            "<frame_start>",
            "<im_end>",
            "<frame_end>",
            "<im_low>",
        ),
        eos="<|im_end|>",
    ),
    "minicpmv4_6": Tiny(_minicpm("MiniCPMV4_6"), chatml("<|image_pad|>", thinks=True), **_MINICPM),
    "minicpmv4_7": Tiny(_minicpm("MiniCPMV4_7"), chatml("<|image_pad|>", thinks=True), **_MINICPM),
} | GEMMAS
