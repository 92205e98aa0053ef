"""Tiny models of types outside the table of families; see ``tiny_families``."""

from __future__ import annotations

import transformers as hf

from tests.rar_train.tiny_parts import LLAVA, PATCH, SQUARE, TILE, TOWER, Tiny, chatml, text_config


def _vipllava(tokenizer):
    config = hf.VipLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER),
        text_config=text_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        vision_feature_layers=[-2, -1],
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": TILE}, crop_size=SQUARE)
    return hf.VipLlavaForConditionalGeneration(config), hf.LlavaProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def _lighton_ocr(tokenizer):
    config = hf.LightOnOcrConfig(
        vision_config=hf.PixtralVisionConfig(**(TOWER | {"image_size": 2 * TILE, "head_dim": 16})),
        text_config=text_config(tokenizer, hf.Qwen3Config),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    )
    images = hf.PixtralImageProcessor(patch_size={"height": PATCH, "width": PATCH}, size={"longest_edge": 2 * TILE})
    return hf.LightOnOcrForConditionalGeneration(config), hf.LightOnOcrProcessor(images, tokenizer, patch_size=PATCH)


OTHERS = {
    "vipllava": Tiny(_vipllava, LLAVA, ("<image>",)),
    "lighton_ocr": Tiny(
        _lighton_ocr,
        chatml("<|image_pad|>"),
        ("<|im_start|>", "<|im_end|>"),
        {
            "image_token": "<|image_pad|>",
            "image_break_token": "<|vision_pad|>",
            "image_end_token": "<|vision_end|>",
        },
        eos="<|im_end|>",
    ),
}
