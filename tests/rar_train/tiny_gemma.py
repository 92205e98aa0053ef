"""Tiny models of Gemma 3n and Gemma 4; see ``tiny_families``."""

from __future__ import annotations

import torch
import transformers as hf

from tests.rar_train.tiny_parts import PATCH, TOWER, Tiny, text_config, token_ids


def _gemma3n(tokenizer):
    size = len(tokenizer)
    config = hf.Gemma3nConfig(
        vision_config={
            "architecture": "mobilenetv5_300m_enc",
            "model_args": {"channel_multiplier": 0.05, "msfa_output_resolution": 2},
            "hidden_size": 2048,
            "vocab_size": 8,
            "vocab_offset": size,
        },
        audio_config={
            "hidden_size": 16,
            "conf_num_hidden_layers": 1,
            "conf_num_attention_heads": 2,
            "sscp_conv_channel_size": [8, 4],
            "vocab_size": 8,
            "vocab_offset": size + 8,
        },
        text_config=text_config(
            tokenizer,
            hf.Gemma3nTextConfig,
            num_hidden_layers=4,
            num_kv_shared_layers=2,
            layer_types=["sliding_attention", "full_attention"] * 2,
            sliding_window=24,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=size,
            laurel_rank=4,
            altup_num_inputs=2,
        ).to_dict(),
        vision_soft_tokens_per_image=4,
        **token_ids(
            tokenizer,
            boi_token_id="<start_of_image>",
            eoi_token_id="<end_of_image>",
            image_token_id="<image_soft_token>",
            boa_token_id="<start_of_audio>",
            eoa_token_id="<end_of_audio>",
            audio_token_id="<audio_soft_token>",
        ),
    )
    images = hf.SiglipImageProcessor(size={"height": 64, "width": 64}, do_normalize=False)
    model = hf.Gemma3nForConditionalGeneration(config)
    # Zero at first; norms of hidden states have no gradient there.
    torch.nn.init.normal_(model.get_input_embeddings().weight[tokenizer.pad_token_id])
    return model, hf.Gemma3nProcessor(hf.Gemma3nAudioFeatureExtractor(), images, tokenizer, image_seq_length=4)


def _gemma4(**changes):
    def build(tokenizer):
        text = text_config(
            tokenizer,
            hf.Gemma4TextConfig,
            global_head_dim=16,
            num_hidden_layers=4,
            num_kv_shared_layers=2,
            layer_types=["sliding_attention", "full_attention"] * 2,
            sliding_window=24,
            hidden_size_per_layer_input=8,
            vocab_size_per_layer_input=len(tokenizer),
            **changes,
        )
        config = hf.Gemma4Config(
            vision_config={
                **{key: value for key, value in TOWER.items() if key != "image_size"},
                "num_key_value_heads": 2,
                "head_dim": 16,
                "pooling_kernel_size": 2,
                "position_embedding_size": 64,
            },
            text_config=text.to_dict(),
            audio_config=None,
            **token_ids(
                tokenizer,
                boi_token_id="<|image>",
                eoi_token_id="<image|>",
                image_token_id="<|image|>",
                video_token_id="<|video|>",
                boa_token_id="<|audio>",
                eoa_token_index="<audio|>",
                audio_token_id="<|audio|>",
            ),
        )
        settings = {"patch_size": PATCH, "max_soft_tokens": 140, "pooling_kernel_size": 2}
        images, videos = hf.Gemma4ImageProcessor(**settings), hf.Gemma4VideoProcessor(**settings)
        return hf.Gemma4ForConditionalGeneration(config), hf.Gemma4Processor(
            hf.Gemma4AudioFeatureExtractor(), images, tokenizer, videos, image_seq_length=140
        )

    return build


_GEMMA3N = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] | replace('assistant', 'model') }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image_soft_token>{% else %}"
    "{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_GEMMA4 = (
    "{{ bos_token }}{% for message in messages %}<|turn>{{ message['role'] | replace('assistant', 'model') }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>{% else %}"
    "{{ part['text'] | trim }}{% endif %}{% endfor %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
GEMMAS = {
    "gemma3n": Tiny(
        _gemma3n,
        _GEMMA3N,
        ("<start_of_turn>", "<end_of_turn>"),
        {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "audio_token": "<audio_soft_token>",
            "boa_token": "<start_of_audio>",
            "eoa_token": "<end_of_audio>",
        },
        eos="<eos>",
        end="<end_of_turn>",
    ),
    "gemma4": Tiny(
        _gemma4(use_bidirectional_attention="vision"),
        _GEMMA4,
        ("<|turn>", "<turn|>", "<|video|>"),
        {
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        },
        eos="<eos>",
        end="<turn|>",
    ),
}
