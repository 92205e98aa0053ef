"""Checks of a base model's files when it is loaded: adapters, chat template, tokens."""

from __future__ import annotations

from pathlib import Path

from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import ProcessorMixin
from transformers.utils import find_adapter_config_file

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.prompting.prompts import NAMING
from rar_train.models.families import Family
from rar_train.models.plain_text import control_tokens


def refuse_adapter(model: str, source: str) -> None:
    """Makes sure that a model's folder or repository holds no adapter.

    Args:
        model: ``ranker.model``, for the error.
        source: The folder or the hub's name.

    Raises:
        UserError: It is an adapter, or has one beside the model, which transformers would add without a word.
    """
    found = find_adapter_config_file(source)
    if found is None:
        return
    base = read_json(Path(found)).get("base_model_name_or_path") or "its base model"
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise UserError(
            f"ranker.model={model}: is an adapter of {base}, not a model; set ranker.model={base}. A run's own adapter "
            "is loaded by --ckpt RUN; merge another trainer's into its base first (peft's merge_and_unload)"
        )
    raise UserError(
        f"ranker.model={model}: holds an adapter (adapter_config.json), which would be added to the model without a "
        f"word; move the adapter's files elsewhere, or merge it into {base} first (peft's merge_and_unload)"
    )


def settle_template(model: str, processor: ProcessorMixin, family: Family) -> None:
    """Finds the chat template, with the processor, the family's or with the tokenizer, and renders it once.

    Raises:
        UserError: There is none, or it does not render a picture and a text.
    """
    if processor.chat_template is None:
        processor.chat_template = family.template or processor.tokenizer.chat_template
    if processor.chat_template is None:
        raise UserError(f"ranker.model={model}: its files hold no chat template (chat_template.jinja); add its own")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": NAMING}]}]
    try:
        text = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"ranker.model={model}: its chat template does not render a picture and a text ({error}); put the "
            "family's own beside the model as chat_template.jinja"
        ) from None
    if NAMING not in text or processor.image_token not in text:
        raise UserError(
            f"ranker.model={model}: its chat template leaves out the picture or the text, as those for text alone do; "
            "put the family's own beside the model as chat_template.jinja"
        )


def check_tokens(model: str, processor: ProcessorMixin, network: nn.Module, asked: Tensor) -> None:
    """Makes sure that every token that can be read has an embedding.

    Args:
        model: ``ranker.model``, for the error.
        processor: Its processor.
        network: The model.
        asked: Token ids of a prompt with a picture; of the control tokens, these alone are read.

    Raises:
        UserError: The tokenizer is larger than the embeddings.
    """
    tokenizer, rows = processor.tokenizer, network.get_input_embeddings().num_embeddings
    control, used = control_tokens(processor), {*asked.flatten().tolist(), tokenizer.pad_token_id}
    beyond = sorted(
        (number, token)
        for token, number in tokenizer.get_vocab().items()
        if number >= rows and (token not in control or number in used)
    )
    if beyond:
        number, token = beyond[0]
        raise UserError(
            f"ranker.model={model}: the model has {rows} embeddings, and its tokenizer {len(beyond)} tokens beyond "
            f"them, such as {token!r} (id {number}); take the tokenizer that belongs to the weights, or weights whose "
            "embeddings were resized to it"
        )
