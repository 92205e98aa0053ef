"""MLLM backend: a model with its processor, one class for all families; what differs is in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from functools import cached_property, lru_cache

import torch
from peft import PeftModel
from PIL import Image
from torch import Tensor, nn
from transformers import BatchFeature, PretrainedConfig, ProcessorMixin

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, yes_no_prompt
from data_prep.settings import RankerArgs
from rar_train.families.conversation import AnswerFrame, find_frame, render_prompt
from rar_train.families.table import Family
from rar_train.models.plain_text import PlainText, control_tokens
from rar_train.rerankers.reranker import Reranker

_TOLERANCE = 1e-3  # relative difference of hidden states in float32
_HALF_TOLERANCE = 0.1  # half precision rounds by more


class Mllm:
    """A model with its processor.

    Attributes:
        model: The model, or the same wrapped by peft.
        processor: Its processor.
        family: Properties of its family.
        id: Family and hash of the weights.
        tree_tokens: ``ranker.tree_tokens``.
        reranker: How the model is prompted as a reranker; None where it has no template of its own for that.
        plain: Escapes control tokens in names to ordinary text, and back.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: ProcessorMixin,
        family: Family,
        identifier: str,
        tree_tokens: int = RankerArgs.tree_tokens,
        reranker: Reranker | None = None,
    ):
        self.model, self.processor, self.family, self.id = model, processor, family, identifier
        self.tree_tokens, self.reranker = tree_tokens, reranker
        self.plain = PlainText(control_tokens(processor))
        self._shell: nn.Module | None = None
        self._answers = lru_cache(maxsize=200_000)(self._tokenise_answer)

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_answers"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state  # in a spawned worker
        self._answers = lru_cache(maxsize=200_000)(self._tokenise_answer)

    def without_model(self) -> Mllm:
        """Returns a copy that can only prepare inputs, for a data-loading worker or a thread.

        Its tokenizer is its own: a tokenizer may not be used by two threads at once.
        """
        copied = copy(self)
        copied.model, copied.processor = None, deepcopy(self.processor)
        copied._shell = _without_weights(self.base)
        return copied

    @property
    def bidirectional(self) -> str:
        """Which tokens see those after them, as ``Family.bidirectional``, by the configuration where that decides."""
        if self.family.bidirectional != "sliding":
            return self.family.bidirectional
        text = self.config.get_text_config().to_dict()
        return "sliding" if text.get("use_bidirectional_attention") == "vision" else "none"

    def mrope_positions(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Computes the position ids of a family with M-RoPE, shape ``[3, n, t]``, as its model does.

        Args:
            inputs: Token ids, attention mask, token types and image grids.
        """
        model = self._shell.model if self._shell is not None else self.base.base_model
        return model.get_rope_index(**inputs)[0]

    @property
    def config(self) -> PretrainedConfig:
        """The model's configuration."""
        return (self._shell if self._shell is not None else self.base).config

    def wrap(self, model: nn.Module) -> Mllm:
        """Returns the same with another model, such as this one with an adapter."""
        return Mllm(model, self.processor, self.family, self.id, self.tree_tokens, self.reranker)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    @property
    def base(self) -> nn.Module:
        """The transformers model itself, without the adapter's wrapper."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @cached_property
    def _frame(self) -> AnswerFrame:
        return find_frame(self.processor, control_tokens(self.processor))

    @property
    def projectors(self) -> list[nn.Module]:
        """The projector, or all of them where there are several."""
        modules = dict(self.base.named_modules())
        return [modules[path] for path in (self.family.connector, *self.family.other_connectors) if path in modules]

    @property
    def tolerance(self) -> float:
        """Relative difference that rounding may make; a quantised base computes in half precision."""
        exact = self.base.dtype == torch.float32 and self.config.to_dict().get("quantization_config") is None
        return _TOLERANCE if exact else _HALF_TOLERANCE

    @property
    def turn_end(self) -> str:
        """The token that ends an answer."""
        return self.family.turn_end or self._frame.end or self.processor.tokenizer.eos_token

    @property
    def turn_end_id(self) -> int:
        """The id of the token that ends an answer and stops generation."""
        return self.processor.tokenizer.convert_tokens_to_ids(self.turn_end)

    def render(self, prompt: str, answer: str | None = None, images: int = 1) -> str:
        """Renders one turn about images with the model's chat template; control tokens in the texts are escaped.

        Args:
            prompt: The user's turn.
            answer: The assistant's turn; without it the text ends with the generation prompt, and with the empty
                thoughts that the template writes before every answer.
            images: Number of images before the prompt.
        """
        text = render_prompt(self.processor, self.plain.escape(prompt), images) + self._frame.thoughts
        return text if answer is None else text + self._frame.space + self.plain.escape(answer) + self.turn_end

    @cached_property
    def images_first(self) -> bool:
        """Whether the template puts images before the prompt, so that conversations about them share their tokens."""
        text = self.render(NAMING)
        return text.rindex(self.processor.image_token) < text.index(NAMING)

    def render_pair(self, document: str, images: int = 1) -> str:
        """Renders images and a document with the reranker's template; control tokens in the document are escaped."""
        assert self.reranker is not None
        return self.reranker.render(self.processor, self.plain.escape(document), images)

    @cached_property
    def pairs_start_with_images(self) -> bool:
        """Whether the reranker's template puts images before the document; see ``images_first``."""
        text = self.render_pair(NAMING)
        return text.rindex(self.processor.image_token) < text.index(NAMING)

    def _tokenise_answer(self, prompt: str, answer: str) -> tuple[int, ...]:
        if self.family.suffix:
            text = self.plain.escape(answer) + self.turn_end
            return tuple(self.processor.tokenizer(text, add_special_tokens=False).input_ids)
        head = self.processor.tokenizer(self.render(prompt)).input_ids
        full = self.processor.tokenizer(self.render(prompt, answer)).input_ids
        if full[: len(head)] != head or not self._frame.consistent:
            raise UserError(
                f"{self.id}: the chat template's prompt is not a prefix of the full conversation in tokens, "
                f"so the answer {answer!r} can't be separated from it; this model's template is not supported"
            )
        return tuple(full[len(head) :])

    def answer_ids(self, prompt: str, answer: str) -> tuple[int, ...]:
        """Returns the token ids of an answer and the turn's end, as they follow the prompt."""
        return self._answers(prompt, answer)

    def letter_ids(self, count: int) -> list[int]:
        """Returns the token ids of the first ``count`` letters as answers; they do not depend on the candidates.

        Raises:
            UserError: Two letters share their first token, so one logit can't represent each.
        """
        prompt = letters_prompt(["-"])  # always the same, so that its answers are tokenised only once
        ids = [self.answer_ids(prompt, letter)[0] for letter in LETTERS[:count]]
        if len(set(ids)) < count:
            raise UserError(f"{self.id}: its tokenizer does not give each letter a token of its own")
        return ids

    def yes_no_ids(self) -> list[int]:
        """Returns the ids of the tokens whose log-odds are the score: yes and no, or what a reranker reads instead.

        Raises:
            UserError: ``yes`` and ``no`` begin with the same token.
        """
        if self.reranker is not None:
            return list(self.reranker.tokens)
        prompt = yes_no_prompt("-")
        yes, no = (self.answer_ids(prompt, answer)[0] for answer in ("yes", "no"))
        if yes == no:
            raise UserError(f"{self.id}: its tokenizer begins yes and no with the same token; use another mode")
        return [yes, no]

    def inputs(
        self,
        images: Sequence[Image.Image | Sequence[Image.Image]],
        prompts: Sequence[str],
        side: str = "left",
        pairs: Sequence[bool] = (),
    ) -> BatchFeature:
        """Builds model inputs from one image, or several, and a prompt per row.

        Args:
            images: The image, or the images, of each row.
            prompts: The user's turns, or documents of pairs.
            side: The padding side.
            pairs: Whether each prompt is the document of a pair; empty where none is.

        Raises:
            UserError: A row has several images, and the chat template renders only one.

        Returns:
            BatchFeature: ``input_ids`` and ``attention_mask`` of shape ``[n, t]``, pixels, and
            whatever else the family's processor returns.
        """
        groups = [[entry] if isinstance(entry, Image.Image) else list(entry) for entry in images]
        renders = [self.render_pair if pair else self.render for pair in pairs or [False] * len(prompts)]
        rows = zip(renders, prompts, groups, strict=True)
        texts = [render(prompt, images=len(group)) for render, prompt, group in rows]
        largest, mark = max(range(len(groups)), key=lambda row: len(groups[row])), self.processor.image_token
        count = len(groups[largest])
        if count > 1 and texts[largest].count(mark) != count * self.render("").count(mark):
            raise UserError(f"{self.id}: its chat template does not take several images; set eval.show_exemplars=false")
        return self._process(groups, texts, side)

    def labelled(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], side: str = "right"
    ) -> BatchFeature:
        """Builds model inputs with answers, and ``labels`` on the answers' tokens; ``side`` is the padding side."""
        groups = [[image] for image in images]
        if self.family.suffix:
            suffix = [self.plain.escape(answer) for answer in answers]
            batch = self._process(groups, [self.render(prompt) for prompt in prompts], side, suffix=suffix)
        else:
            texts = [self.render(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
            batch = self._process(groups, texts, side)
        labels = torch.full_like(batch["input_ids"], -100)
        width = labels.shape[1]
        ends = batch["attention_mask"].sum(1).tolist() if side == "right" else [width] * len(answers)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = torch.tensor(self.answer_ids(prompt, answer))
            span = slice(ends[row] - len(ids), ends[row])
            if not torch.equal(batch["input_ids"][row, span], ids):
                raise UserError(f"{self.id}: the answer {answer!r} is tokenised differently after an image")
            labels[row, span] = ids
        batch["labels"] = labels
        return batch

    def _process(self, groups: list[list[Image.Image]], texts: list[str], side: str, **kwargs) -> BatchFeature:
        inputs = self.processor(
            images=groups,
            text=texts,
            padding=True,
            padding_side=side,
            return_tensors="pt",
            add_special_tokens=not texts[0].startswith(self.processor.tokenizer.bos_token or "\0"),
            **kwargs,
        )
        inputs.pop("labels", None)  # PaliGemma's processor makes labels itself
        for name, value in inputs.items():
            if value.is_floating_point():
                inputs[name] = value.float()  # some processors give bfloat16
        return inputs


def _without_weights(model: nn.Module) -> nn.Module:
    """Returns a model of the same classes with its configuration alone, which computes positions in any process."""
    shell, inner = object.__new__(type(model)), object.__new__(type(model.base_model))
    for bare, whole in ((shell, model), (inner, model.base_model)):
        nn.Module.__init__(bare)
        bare.config = whole.config
    shell.model = inner
    return shell
