"""Pointwise rerankers: the chat template that shows an image and a candidate, and the two tokens that answer it.

The score of mode ``yes_no`` is the log-odds of two tokens after the prompt. A model that was trained as a reranker has
a template for it, which renders messages of the roles ``query`` and ``document``, and sentence-transformers' files say
which tokens it answers with. jina-reranker-m0 has a head of its own instead, on the hidden state of a token after the
prompt. Any other model gets a question, and answers with the first tokens of ``yes`` and ``no``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import TemplateError
from transformers import ProcessorMixin

from data_prep.core.errors import UserError
from data_prep.core.files import read_json
from data_prep.settings import RankerArgs
from rar_train.rerankers.head import JINA, JINA_TOKEN, ScoreHead, read_head
from rar_train.rerankers.templates import JINA_TEMPLATE, OWN_TEMPLATE, TEMPLATES


@dataclass(frozen=True)
class Reranker:
    """How a model is prompted and read as a pointwise reranker.

    Attributes:
        template: Name of one of the processor's chat templates, or the text of one.
        instruction: What the template shows as instruction; None for its own.
        tokens: Ids of the tokens for a relevant and an irrelevant document; the first alone where its logit is the
            score, and none where a head gives it.
        head: The head; None where tokens are read.
        suffix: Ids of tokens after the prompt.
    """

    template: str
    instruction: str | None
    tokens: tuple[int, ...]
    head: ScoreHead | None = None
    suffix: tuple[int, ...] = ()

    def render(self, processor: ProcessorMixin, document: str, images: int = 1) -> str:
        """Renders the prompt about a document, with images as the query."""
        messages = [
            {"role": "query", "content": [{"type": "image"}] * images},
            {"role": "document", "content": [{"type": "text", "text": document}]},
        ]
        if self.instruction is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.instruction}]})
        return processor.apply_chat_template(
            messages, chat_template=self.template, add_generation_prompt=True, tokenize=False
        )


def find_reranker(args: RankerArgs, folder: Path, processor: ProcessorMixin) -> Reranker | None:
    """Finds a model's template and tokens as a reranker.

    Args:
        args: ``model``, ``reranker_template`` and ``instruction``.
        folder: The model's files.
        processor: Its processor.

    Returns:
        Reranker | None: None where the model has no such template, and none is set.

    Raises:
        UserError: The template is missing, or does not render an image and a name; the tokens are missing; or there is
            an instruction that nothing shows.
    """
    if JINA in (read_json(folder / "config.json").get("architectures") or ()):
        head = read_head(args.model, folder)
        reranker = Reranker(JINA_TEMPLATE, args.instruction, (), head, (JINA_TOKEN,))
        _check_template(args, processor, reranker)
        return reranker
    template = _find_template(args, processor)
    if template is None:
        if args.instruction is not None:
            raise UserError(
                f"ranker.instruction: {args.model} has no reranker's template that would show it; set "
                "ranker.reranker_template, or leave the instruction out"
            )
        return None
    tokens = _find_tokens(args.model, folder, processor)
    reranker = Reranker(template, args.instruction, tuple(token for token in tokens if token is not None))
    _check_template(args, processor, reranker)
    return reranker


def _find_template(args: RankerArgs, processor: ProcessorMixin) -> str | None:
    """Returns the name of a template of the processor's, or the text of another."""
    own = processor.chat_template if isinstance(processor.chat_template, dict) else {}
    name = args.reranker_template
    if name is None:
        return OWN_TEMPLATE if OWN_TEMPLATE in own else None
    if name in own:
        return name
    if name in TEMPLATES:
        return TEMPLATES[name]
    if not Path(name).is_file():
        known = ", ".join(sorted({*own, *TEMPLATES}))
        raise UserError(f"ranker.reranker_template={name}: no such file; templates with a name are {known}")
    return Path(name).read_text(encoding="utf-8")


def _find_tokens(model: str, folder: Path, processor: ProcessorMixin) -> tuple[int, int | None]:
    """Returns the tokens for relevant and irrelevant: those of sentence-transformers' files, else ``yes`` and ``no``.

    Raises:
        UserError: There are no such tokens.
    """
    modules = read_json(folder / "modules.json") if (folder / "modules.json").is_file() else []
    for module in modules:
        config = folder / str(module.get("path", "")) / "config.json"
        if str(module.get("type", "")).endswith("LogitScore") and config.is_file():
            values = read_json(config)
            return _check_token(model, processor, values["true_token_id"]), values.get("false_token_id")
    vocabulary = processor.tokenizer.get_vocab()
    missing = [word for word in ("yes", "no") if word not in vocabulary]
    if missing:
        raise UserError(
            f"ranker.model={model}: its tokenizer has no token {missing[0]!r}, with which rerankers answer; add "
            "sentence-transformers' modules.json and the folder of its LogitScore, which name the tokens"
        )
    return vocabulary["yes"], vocabulary["no"]


def _check_token(model: str, processor: ProcessorMixin, token: object) -> int:
    if not isinstance(token, int) or not 0 <= token < len(processor.tokenizer):
        raise UserError(f"ranker.model={model}: true_token_id={token!r} of its LogitScore is no token of its tokenizer")
    return token


def _check_template(args: RankerArgs, processor: ProcessorMixin, reranker: Reranker) -> None:
    where = f"ranker.reranker_template={args.reranker_template or OWN_TEMPLATE} of {args.model}"
    document = "THE-DOCUMENT"
    try:
        text = reranker.render(processor, document)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where}: does not render an image and a name ({error})") from None
    shown = {"the image": processor.image_token, "the name": document, "ranker.instruction": args.instruction or ""}
    for what, part in shown.items():
        if part not in text:
            raise UserError(f"{where}: leaves out {what}; it must render the roles query and document")
