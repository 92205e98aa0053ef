"""Tiny models of each supported family: the real architecture and processor with random weights, as hub folders."""

from __future__ import annotations

import string
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_answer, list_prompt
from rar_train.models.name_llava import NameLlava, NameLlavaConfig
from tests.rar_train.tiny_others import OTHERS
from tests.rar_train.tiny_parts import (
    LLAVA,
    NAMES,
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
)
from tests.rar_train.tiny_recent import TINY_RECENT

_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
# LLaVA-NeXT's Mistral template ends a turn by a misspelt token, which must not be learned.
_MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] <image>\n" + TEXTS + " [/INST]"
    "{% else %} " + TEXTS + "<\\s> {% endif %}{% endfor %}"
)
_SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:<image>{% else %}: {% endif %}" + TEXTS + "<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] | replace('assistant', 'model') }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>{% else %}"
    "{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _tokenizer(tiny: Tiny) -> hf.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(["<s>", tiny.eos, "<pad>", *tiny.special, *tiny.named.values()]))
    corpus = [*NAMES, NAMING, letters_prompt(NAMES), list_prompt(NAMES), list_answer(NAMES)]
    corpus += [f"Answer: {letter}" for letter in LETTERS] * 20
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus * 3 + [string.printable], trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token=tiny.eos,
        pad_token="<pad>",
        extra_special_tokens=tiny.named,
        additional_special_tokens=list(tiny.special),
    )


def _llava(tokenizer):
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER),
        text_config=text_config(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": TILE}, crop_size=SQUARE)
    return hf.LlavaForConditionalGeneration(config), hf.LlavaProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def _name_llava(tokenizer):
    config = NameLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER),
        text_config=text_config(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        projector_places=16,
        projector_width=16,
    )
    model = NameLlava(config)
    model.set_names([tokenizer(name).input_ids for name in NAMES], fill=tokenizer.pad_token_id)
    images = hf.CLIPImageProcessor(size={"shortest_edge": TILE}, crop_size=SQUARE)
    return model, hf.LlavaProcessor(
        images, tokenizer, patch_size=TILE, vision_feature_select_strategy="default", num_additional_image_tokens=4
    )


def _llava_next(tokenizer):
    pinpoints = [[TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**TOWER),
        text_config=text_config(tokenizer, hf.MistralConfig),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
        image_seq_length=16,
    )
    images = hf.LlavaNextImageProcessor(size={"shortest_edge": TILE}, crop_size=SQUARE, image_grid_pinpoints=pinpoints)
    return hf.LlavaNextForConditionalGeneration(config), hf.LlavaNextProcessor(
        images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def _llava_onevision(tokenizer):
    pinpoints = [[TILE, TILE], [TILE, 2 * TILE], [2 * TILE, TILE], [2 * TILE, 2 * TILE]]
    config = hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=text_config(tokenizer, hf.Qwen2Config),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=pinpoints),
        tokenizer,
        hf.LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )


def _qwen(name: str, vision: dict):
    def build(tokenizer):
        ids = {
            f"{kind}_token_id": tokenizer.convert_tokens_to_ids(
                f"<|{kind.replace('image', 'image_pad').replace('video', 'video_pad')}|>"
            )
            for kind in ("image", "video", "vision_start", "vision_end")
        }
        version3 = name == "Qwen3VL"
        rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}
        config_class = getattr(hf, f"{name}Config")
        text = text_config(tokenizer).to_dict()
        text = {key: text[key] for key in (*TEXT, "vocab_size")} | {"rope_parameters": rope}
        if not version3:
            text.pop("head_dim")
        config = config_class(text_config=text, vision_config=vision, **ids)
        patch = vision["patch_size"]
        size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (8 * patch) ** 2}
        images = hf.Qwen2VLImageProcessor(patch_size=patch, merge_size=2, temporal_patch_size=2, size=size)
        video_class = hf.Qwen3VLVideoProcessor if version3 else hf.Qwen2VLVideoProcessor
        processor_class = getattr(hf, {"Qwen2_5_VL": "Qwen2_5_VLProcessor"}.get(name, f"{name}Processor"))
        return getattr(hf, f"{name}ForConditionalGeneration")(config), processor_class(
            images, tokenizer, video_class(patch_size=patch)
        )

    return build


def _internvl(tokenizer):
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**(TOWER | {"image_size": [TILE, TILE], "patch_size": [PATCH, PATCH]})),
        text_config=text_config(tokenizer, hf.Qwen2Config),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    images = hf.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=3)
    return hf.InternVLForConditionalGeneration(config), hf.InternVLProcessor(
        images, tokenizer, hf.InternVLVideoProcessor(size=SQUARE), image_seq_length=4
    )


def _idefics(name: str):
    def build(tokenizer):
        vision = getattr(hf, f"{name}VisionConfig")(**TOWER)
        config = getattr(hf, f"{name}Config")(
            vision_config=vision,
            text_config=text_config(tokenizer),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            scale_factor=2,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        )
        size = {"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}}
        images = getattr(hf, f"{name}ImageProcessor")(**size)
        sampling = {"fps": 1, "max_frames": 4, "video_size": {"longest_edge": TILE}}
        more = [hf.SmolVLMVideoProcessor(**size, video_sampling=sampling)] if name == "SmolVLM" else []
        model = getattr(hf, f"{name}ForConditionalGeneration")(config)
        return model, getattr(hf, f"{name}Processor")(images, tokenizer, *more, image_seq_len=4)

    return build


def _gemma3(tokenizer):
    config = hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        # A window shorter than a prompt, and both kinds of layer.
        text_config=text_config(
            tokenizer,
            hf.Gemma3TextConfig,
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention"],
            query_pre_attn_scalar=16,
        ),
        mm_tokens_per_image=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_id=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_id=tokenizer.convert_tokens_to_ids("<end_of_image>"),
    )
    model = hf.Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
    return model, hf.Gemma3Processor(hf.Gemma3ImageProcessor(size=SQUARE), tokenizer, image_seq_length=4)


def _paligemma(tokenizer):
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=text_config(tokenizer, hf.GemmaConfig),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=WIDTH,
    )
    images = hf.SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = 16
    return hf.PaliGemmaForConditionalGeneration(config), hf.PaliGemmaProcessor(images, tokenizer)


_IM = ("<|im_start|>", "<|im_end|>")
_QWEN = {
    "special": (*_IM, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    "eos": "<|im_end|>",
}
_SMOL = {
    "template": _SMOLVLM,
    "special": (
        "<|im_start|>",
        "<image>",
        "<fake_token_around_image>",
        "<end_of_utterance>",
        "<global-img>",
        "<video>",
    ),
    "end": "<end_of_utterance>",
}
TINY = {
    "llava": Tiny(_llava, LLAVA, ("<image>",)),
    "name_llava": Tiny(_name_llava, LLAVA, ("<image>",)),
    "llava_next": Tiny(_llava_next, _MISTRAL, ("<image>",)),
    "llava_onevision": Tiny(
        _llava_onevision,
        chatml("<image>\n", after_role=" ", after_turn=""),
        (*_IM, "<image>", "<video>"),
        eos="<|im_end|>",
    ),
    "qwen2_vl": Tiny(
        _qwen(
            "Qwen2VL",
            {"depth": 2, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2, "patch_size": PATCH},
        ),
        chatml(_QWEN_IMAGE, _SYSTEM),
        **_QWEN,
    ),
    "qwen2_5_vl": Tiny(
        _qwen(
            "Qwen2_5_VL",
            {
                "depth": 2,
                "hidden_size": WIDTH,
                "intermediate_size": 48,
                "out_hidden_size": WIDTH,
                "num_heads": 2,
                "patch_size": PATCH,
                "window_size": 32,
                "fullatt_block_indexes": [1],
            },
        ),
        chatml(_QWEN_IMAGE, _SYSTEM),
        **_QWEN,
    ),
    "qwen3_vl": Tiny(
        _qwen(
            "Qwen3VL",
            {
                "depth": 2,
                "hidden_size": WIDTH,
                "intermediate_size": 48,
                "out_hidden_size": WIDTH,
                "num_heads": 2,
                "patch_size": PATCH,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
        ),
        chatml(_QWEN_IMAGE),
        **_QWEN,
    ),
    "internvl": Tiny(
        _internvl,
        chatml("<IMG_CONTEXT>\n"),
        _IM,
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        eos="<|im_end|>",
    ),
    "smolvlm": Tiny(_idefics("SmolVLM"), **_SMOL),
    "idefics3": Tiny(_idefics("Idefics3"), **_SMOL),
    "gemma3": Tiny(
        _gemma3,
        _GEMMA,
        ("<start_of_turn>", "<end_of_turn>"),
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        eos="<eos>",
        end="<end_of_turn>",
    ),
    "paligemma": Tiny(_paligemma, None, ("<image>",), eos="<eos>"),
} | TINY_RECENT


def save_tiny(kind: str, folder: Path) -> Path:
    """Writes a family's tiny model and processor into a folder in the hub's layout."""
    tiny = (TINY | OTHERS)[kind]
    tokenizer = _tokenizer(tiny)
    torch.manual_seed(0)
    model, processor = tiny.build(tokenizer)
    model.save_pretrained(folder)
    processor.chat_template = tiny.template
    processor.save_pretrained(folder)
    return folder


def turn_end(kind: str) -> str:
    """Returns the token that ends an answer of a family."""
    return TINY[kind].end or TINY[kind].eos
