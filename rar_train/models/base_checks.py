"""Checks of a base model's files at loading time: adapters, chat template, tokens."""

from __future__ import annotations

from pathlib import Path

from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import ProcessorMixin
from transformers.utils import find_adapter_config_file

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.prompting.prompts import NAMING
from rar_train.families.table import Family
from rar_train.models.plain_text import control_tokens


def refuse_adapter(model: str, source: str) -> None:
    """Raises an error where a model's folder or repository contains an adapter.

    Args:
        model: ``ranker.model``, for the error.
        source: A folder, or a repository name on the Hugging Face hub.

    Raises:
        UserError: It is an adapter, or has one next to the model, which transformers would add silently.
    """
    config_file = find_adapter_config_file(source)
    if config_file is None:
        return
    base = read_json(Path(config_file)).get("base_model_name_or_path") or "its base model"
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise UserError(
            f"ranker.model={model}: is an adapter of {base}, not a model; set ranker.model={base}. A run's own adapter "
            "is loaded by --ckpt RUN; merge another trainer's into its base first (peft's merge_and_unload)"
        )
    raise UserError(
        f"ranker.model={model}: holds an adapter (adapter_config.json), which would be added to the model silently; "
        f"move the adapter's files elsewhere, or merge it into {base} first (peft's merge_and_unload)"
    )


def set_chat_template(model: str, processor: ProcessorMixin, family: Family) -> None:
    """Sets the chat template (the processor's, else the family's, else the tokenizer's) and renders it once.

    Raises:
        UserError: There is none, or it does not render an image and a text.
    """
    if processor.chat_template is None:
        processor.chat_template = family.template or processor.tokenizer.chat_template
    if processor.chat_template is None:
        raise UserError(
            f"ranker.model={model}: its files contain no chat template; add the family's as chat_template.jinja"
        )
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": NAMING}]}]
    try:
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"ranker.model={model}: its chat template does not render an image and a text ({error}); put the "
            "family's template next to the model as chat_template.jinja"
        ) from None
    if NAMING not in text or processor.image_token not in text:
        raise UserError(
            f"ranker.model={model}: its chat template leaves out the image or the text, as text-only templates do; "
            "put the family's template next to the model as chat_template.jinja"
        )


def check_tokens(model: str, processor: ProcessorMixin, network: nn.Module, prompt_ids: Tensor) -> None:
    """Checks that every token that can occur in the input has an embedding.

    Args:
        model: ``ranker.model``, for the error.
        processor: Its processor.
        network: The model.
        prompt_ids: Token ids of a prompt with an image; of the control tokens, only these occur in inputs.

    Raises:
        UserError: The tokenizer is larger than the embedding table.
    """
    tokenizer, rows = processor.tokenizer, network.get_input_embeddings().num_embeddings
    control, used = control_tokens(processor), {*prompt_ids.flatten().tolist(), tokenizer.pad_token_id}
    without_embedding = sorted(
        (token_id, token)
        for token, token_id in tokenizer.get_vocab().items()
        if token_id >= rows and (token not in control or token_id in used)
    )
    if without_embedding:
        token_id, token = without_embedding[0]
        raise UserError(
            f"ranker.model={model}: the model has {rows} embeddings, and its tokenizer {len(without_embedding)} tokens "
            f"beyond them, such as {token!r} (id {token_id}); take the tokenizer that belongs to the weights, or "
            "weights whose embeddings were resized to it"
        )
