"""Chat completions of ranking requests: how each mode's request is written, and how its reply is read.

``letters``: one token with its 20 likeliest alternatives; a letter that is not among them gets a floor below them all.
``constrained``: a list, decoded by the server under a grammar or a JSON schema.
``generate`` and ``name``: free text.
"""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import dataclass
from typing import Any

from PIL import Image

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS, list_answer
from data_prep.prompting.replies import read_list
from data_prep.settings import RankerArgs, ServerArgs
from eval.ranking.grammar import MAX_NAMES, permutation_grammar
from eval.ranking.prompt import build_prompt
from eval.ranking.request import RankingMode, RankingRequest, Response
from eval.ranking.server import BadReply, IgnoredConstraint, Server
from rar_train.models.decoding import DIGITS
from rar_train.models.meta import build_on_meta, local_folder

TOP = 20
"""Number of likeliest tokens to request, the most that OpenAI and vLLM give by default."""

# Text that may be a control token of some model, for models whose processor is not on this machine.
_MARKUP = re.compile(r"<(?=[^\s<>]+>)|\[(?=/?[A-Z_]+\])")
_ESCAPED = re.compile(r"<(?: )(?=[^\s<>]+>)|\[(?: )(?=/?[A-Z_]+\])")
_GREEDY = {
    "vllm": {"repetition_penalty": 1.0},  # else that of the model's generation_config.json
    "sglang": {"repetition_penalty": 1.0},
    "llama.cpp": {"repeat_penalty": 1.0},
}
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}


class PromptText:
    """Texts and token limits as the local model has them; by estimate where its processor is not on this machine.

    Args:
        ranker: Its model.
    """

    def __init__(self, ranker: RankerArgs):
        folder = local_folder(ranker.model)
        self.mllm = build_on_meta(ranker, folder) if folder else None

    def escape(self, text: str) -> str:
        """Returns the text with control tokens escaped, so that a class name can't be one."""
        return self.mllm.plain.escape(text) if self.mllm else _MARKUP.sub(lambda match: match.group() + " ", text)

    def unescape(self, text: str) -> str:
        """Reverts ``escape``."""
        return self.mllm.plain.unescape(text) if self.mllm else _ESCAPED.sub(lambda match: match.group()[0], text)

    def list_tokens(self, prompt: str, answer: str) -> int:
        """Returns the number of tokens of an answer and the turn's end; without a processor half its characters."""
        return len(self.mllm.answer_ids(prompt, answer)) if self.mllm else len(answer) // 2 + 1


def served_name(ranker: RankerArgs, tuned: bool) -> str:
    """Returns the name of the base or the tuned model on the server.

    Raises:
        UserError: The tuned model has none.
    """
    if not tuned:
        return ranker.server.served_model or ranker.model
    if ranker.server.served_adapter is None:
        raise UserError(
            "ranker.backend=openai: give ranker.server.served_adapter=NAME, the name under which the server has the "
            "adapter or the merged model (docs/serving.md)"
        )
    return ranker.server.served_adapter


def server_kind(args: ServerArgs, models: list[dict[str, Any]]) -> str:
    """Returns ``ranker.server.constraint``; for ``auto`` that of the software that the server's models name."""
    if args.constraint != "auto":
        return args.constraint
    owners = {str(model.get("owned_by")) for model in models}
    return next((kind for owner, kind in _OWNERS.items() if owner in owners), "json_schema")


def served_identity(ranker: RankerArgs) -> list[Any]:
    """Identifies a server's models and all settings that change their answers, wherever the server is.

    Returns:
        list: Names, files and parents of the base and the tuned model as the server lists them, the settings, and
        whether prompts are written with the model's processor.

    Raises:
        UserError: The server does not answer.
    """
    args, models = ranker.server, Server(ranker.server).models()
    listed = {str(model.get("id")): [model.get("root"), model.get("parent")] for model in models}
    names = [args.served_model or ranker.model, args.served_adapter]
    # SGLang lists an adapter by its own name, and takes it as BASE:ADAPTER.
    found = [[name, listed.get(name) or listed.get(str(name).rpartition(":")[2])] for name in names]
    settings = [server_kind(args, models), args.extra, args.image_format]
    return [found, settings, local_folder(ranker.model) is not None]


def encode_image(image: Image.Image, image_format: str) -> bytes:
    """Encodes an image as ``png`` (lossless) or ``jpeg``."""
    buffer = io.BytesIO()
    options = {"compress_level": 1} if image_format == "png" else {"quality": 95}
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _data_url(image: Image.Image, image_format: str) -> str:
    return f"data:image/{image_format};base64,{base64.b64encode(encode_image(image, image_format)).decode()}"


@dataclass(frozen=True)
class Messages:
    """Writes the requests of one model in one mode, and reads their replies.

    Attributes:
        args: Image encoding.
        model: The model's name on the server.
        tuned: Whether it is the tuned model.
        mode: How to prompt it.
        kind: One of ``CONSTRAINTS`` but ``auto``.
        text: Texts and limits.
    """

    args: ServerArgs
    model: str
    tuned: bool
    mode: RankingMode
    kind: str
    text: PromptText

    def body(self, request: RankingRequest, with_images: bool = True) -> dict[str, Any]:
        """Writes a request's chat completion.

        Raises:
            UserError: An image is missing or does not decode, or there are too many candidates for the mode.
        """
        prompt = build_prompt(self.mode, request)
        images = request.images() if with_images else []
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(image, self.args.image_format)}} for image in images
        ]
        content.append({"type": "text", "text": self.text.escape(prompt)})
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], "temperature": 0}
        return body | _GREEDY.get(self.kind, {}) | self._limits(prompt, request)

    def _limits(self, prompt: str, request: RankingRequest) -> dict[str, Any]:
        mode, answer = self.mode, list_answer(request.shown_names)
        if mode.mode == "letters":
            return {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP}
        if mode.mode == "name":
            return {"max_tokens": mode.reply_tokens}
        if mode.mode == "generate":
            return {"max_tokens": mode.reply_tokens or self.text.list_tokens(prompt, answer) + 8}
        # A grammar lets any tokenisation of the list through, down to characters.
        return {"max_tokens": 2 * self.text.list_tokens(prompt, answer)} | self._constraint(request.shown_names)

    def _constraint(self, names: list[str]) -> dict[str, Any]:
        if self.kind == "json_schema":
            array = {"type": "array", "items": {"type": "string", "enum": names}}
            array |= {"minItems": len(names), "maxItems": len(names)}
            schema = {"type": "object", "properties": {"ranking": array}, "required": ["ranking"]}
            schema |= {"additionalProperties": False}
            json_schema = {"name": "ranking", "strict": True, "schema": schema}
            return {"response_format": {"type": "json_schema", "json_schema": json_schema}}
        if len(names) > MAX_NAMES:
            raise UserError(
                f"{len(names)} candidates, but a grammar of mode constrained takes {MAX_NAMES}; rank fewer (eval.k), "
                "by another mode, or set ranker.server.constraint=json_schema"
            )
        grammar = permutation_grammar([self.text.escape(repr(name)) for name in names])
        return {
            "vllm": {"structured_outputs": {"grammar": grammar}},
            "sglang": {"ebnf": grammar},
            "llama.cpp": {"grammar": grammar},
        }[self.kind]

    def read(self, request: RankingRequest, choice: dict[str, Any]) -> Response:
        """Reads the reply to a request.

        Args:
            request: The request.
            choice: A choice of a chat completion.

        Raises:
            BadReply: It is not a reply of this mode.
        """
        is_filtered = choice.get("finish_reason") == "content_filter"
        if self.mode.mode == "letters":
            return _refused(request) if is_filtered else _read_letters(request, choice)
        message = choice["message"]
        text = message.get("content")
        if text is None:
            text = message.get("refusal") or ("" if is_filtered else None)
        if not isinstance(text, str):
            raise BadReply("no text")
        reply = self.text.unescape(text.strip())
        if self.mode.mode == "constrained" and not is_filtered:
            self._check_constraint(request, reply)
        return Response(reply=reply)

    def _check_constraint(self, request: RankingRequest, reply: str) -> None:
        outcome = read_list(reply, request.names, request.shown_names).outcome
        allowed = ("ok", "repaired") if self.kind == "json_schema" else ("ok",)
        if outcome not in allowed:
            raise IgnoredConstraint(
                f"not a permutation, so the server ignored the constraint of {self.kind}; set "
                f"ranker.server.constraint: {reply[:60]}"
            )


def _refused(request: RankingRequest) -> Response:
    return Response((0.0,) * len(request.names), "refused by the server's content filter")


def _read_letters(request: RankingRequest, choice: dict[str, Any]) -> Response:
    """Reads the letters' log-probabilities; the reply names the letters that are missing."""
    if not choice.get("logprobs"):
        raise BadReply("no log-probabilities; this server can't rank by letters")
    first = choice["logprobs"]["content"][0]
    pairs = [(str(entry["token"]), float(entry["logprob"])) for entry in (first, *first["top_logprobs"])]
    by_letter: dict[str, float] = {}
    for token, value in pairs:
        letter = token.strip().strip("▁Ġ")  # a letter with a space before it is a token of its own in some models
        if math.isfinite(value):
            by_letter[letter] = max(value, by_letter.get(letter, value))
    if not by_letter:
        raise BadReply("log-probabilities that are no numbers")
    floor = min(by_letter.values()) - 10**-DIGITS
    letters = LETTERS[: len(request.names)]
    missing = [letter for letter in letters if letter not in by_letter]
    shown = [round(by_letter.get(letter, floor), DIGITS) for letter in letters]
    scores = dict(zip(request.shown, shown, strict=True))
    note = f"not among the {len(first['top_logprobs'])} likeliest tokens: {', '.join(missing)}" if missing else ""
    return Response(tuple(scores[index] for index in range(len(letters))), note)
