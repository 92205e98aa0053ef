"""Parts of the tiny models: sizes, templates and text configurations that families share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import transformers as hf

WIDTH, TILE, PATCH = 32, 32, 8
NAMES = [
    "azure, a bend or",
    "gules, a pale argent, a heart or",
    "Boeing 707-320, 'Intercontinental'",
    "or, a cross vert",
]
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
TOWER = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": TILE,
    "patch_size": PATCH,
}
SQUARE = {"height": TILE, "width": TILE}

TEXTS = "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"


NEWLINE = "{{ '\n' }}"  # jinja drops a bare one after a tag


def chatml(
    image: str, system: str = "", after_role: str = NEWLINE, after_turn: str = NEWLINE, thinks: bool = False
) -> str:
    """Makes the template of the Qwens, InternVL and LLaVA-OneVision, which differ in white space and image tokens.

    Those that think begin to do so after the generation prompt, and have empty thoughts before an answer.
    """
    start, empty = ("<think>" + NEWLINE, NEWLINE + "</think>" + NEWLINE * 2) if thinks else ("", "")
    return (
        f"{system}{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}"
        f"{{% if message['role'] == 'user' %}}{after_role}{{% else %}}{NEWLINE}{{% endif %}}"
        f"{{% for part in message['content'] if part['type'] == 'image' %}}{image}{{% endfor %}}"
        f"{{% if message['role'] == 'assistant' %}}{start}{empty}{{% endif %}}{TEXTS}"
        f"<|im_end|>{after_turn}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|im_start|>assistant{NEWLINE}{start}{{% endif %}}"
    )


LLAVA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class Tiny:
    """A family's architecture in tiny sizes.

    Attributes:
        build: Makes model and processor from a tokenizer.
        template: The chat template that the family ships, or None where it ships none.
        special: Special tokens in addition to the usual ones.
        named: Special tokens by the attribute name that the processor reads.
        eos: The tokenizer's end-of-sequence token.
        end: The token that ends an answer; None where it is ``eos``.
    """

    build: Callable[[hf.PreTrainedTokenizerFast], tuple[hf.PreTrainedModel, hf.ProcessorMixin]]
    template: str | None
    special: tuple[str, ...] = ()
    named: dict[str, str] = field(default_factory=dict)
    eos: str = "</s>"
    end: str | None = None


def text_config(tokenizer, config: type = hf.LlamaConfig, **changes):
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return config(**(TEXT | ids | {"vocab_size": len(tokenizer)} | changes))


def token_ids(tokenizer, **tokens: str) -> dict[str, int]:
    """Maps the configuration's keys to the ids of tokens."""
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in tokens.items()}
