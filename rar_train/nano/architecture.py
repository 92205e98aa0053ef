"""nano-mllm's architecture and processor: a LLaVA with two million parameters for images of 64 pixels."""

from __future__ import annotations

from transformers import CLIPImageProcessor, LlamaConfig, LlavaConfig, LlavaProcessor

from rar_train.models.timm_tower import TimmTowerConfig
from rar_train.nano.tokenizer import IMAGE, nano_tokenizer

PIXELS = 64
STRIDE = 16
TOKENS = (PIXELS // STRIDE) ** 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% else %} ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def nano_config() -> LlavaConfig:
    """Returns the architecture: a four-stage residual tower at 64 pixels and a Llama of five layers."""
    tokenizer = nano_tokenizer(append_eos=False)
    return LlavaConfig(
        vision_config=TimmTowerConfig(
            architecture="resnet18",
            architecture_args={
                "layers": [1, 1, 1, 1],
                "channels": [48, 96, 192, 192],
                "stem_type": "deep",
                "stem_width": 16,
                "replace_stem_pool": True,
                # Zero-initialised residual branches learn about half as fast here.
                "zero_init_last": False,
            },
            stage=3,
            hidden_size=192,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )


def nano_processor() -> LlavaProcessor:
    """Returns the processor for ``nano_config``, with LLaVA-1.5's turn markers."""
    size = {"height": PIXELS, "width": PIXELS}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size=size, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
        ),
        tokenizer=nano_tokenizer(append_eos=False),
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
    )
