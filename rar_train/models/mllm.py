"""MLLM backend: one implementation for all families of ``AutoModelForImageTextToText``, driven by a table."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import PeftModel, prepare_model_for_kbit_training
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    GenerationConfig,
    PretrainedConfig,
    ProcessorMixin,
)

import rar_train.models.name_llava
import rar_train.models.timm_tower  # noqa: F401  (registers the tower of both embedded and lite models)
from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, fingerprint
from data_prep.core.hub import check_hub
from data_prep.core.manifests import check_model_folder
from data_prep.core.paths import NANO_MLLM
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, yes_no_prompt
from data_prep.settings import RankerArgs
from rar_train.families.auto import check_kind, find_family, missing_part
from rar_train.families.conversation import AnswerFrame, find_frame, render_prompt
from rar_train.families.proof import find_failure
from rar_train.families.table import FAMILIES, Family
from rar_train.models.base_checks import check_tokens, refuse_adapter, set_chat_template
from rar_train.models.four_bits import four_bits
from rar_train.models.plain_text import PlainText, control_tokens
from rar_train.rerankers.reranker import Reranker, find_reranker

log = logging.getLogger(__name__)

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


def _loading_error(model: str, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else ""
    message = f"ranker.model={model}: could not be loaded ({type(error).__name__}: {reason})."
    if Path(model).is_dir():
        return UserError(f"{message} The folder needs config.json, undamaged safetensors and the processor's files.")
    return UserError(
        f"{message} Without a network, give ranker.model=FOLDER of a local copy with config.json, safetensors and the "
        "processor's files."
    )


def _sha256(path: Path) -> str:
    # The hub's cache names a large file by its SHA-256, and snapshots link to it.
    stored = path.resolve().name
    return stored if re.fullmatch("[0-9a-f]{64}", stored) else file_hash(path)


def weights_hash(folder: Path) -> str:
    """Returns a hash of a model's safetensors, independent of its path: 16 hexadecimal digits."""
    return fingerprint({path.name: _sha256(path) for path in folder.glob("*.safetensors")})


def prepare_base(args: RankerArgs, kind: str, processor: ProcessorMixin, model: nn.Module) -> Family:
    """Completes processor and model: chat template, pad token, size settings and the pixel budget.

    Returns:
        Family: The entry of the family ``kind``, or what was found in a model outside the table.

    Raises:
        UserError: Chat template, tokens or sizes are invalid, or a pixel budget is set for images of a fixed size.
    """
    family = FAMILIES[kind] if kind in FAMILIES else find_family(args.model, kind, model)
    set_chat_template(args.model, processor, family)
    if processor.tokenizer.eos_token is None:
        raise UserError(f"ranker.model={args.model}: its tokenizer_config.json is missing or has no eos_token")
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    if family.rename_sizes is not None:
        family.rename_sizes(processor)
    if args.max_pixels is not None:
        if family.budget is None:
            raise UserError(f"ranker.max_pixels={args.max_pixels}: images of the family {kind} have a fixed size")
        family.budget(processor, model, args.max_pixels)
    try:
        inputs = Mllm(model, processor, family, args.model).inputs([Image.new("RGB", (64, 64))], [NAMING])
    except Exception as error:  # processors of incomplete files raise errors of many kinds
        raise _loading_error(args.model, error) from None
    check_tokens(args.model, processor, model, inputs["input_ids"])
    return family


def load_mllm(args: RankerArgs) -> Mllm:
    """Loads an MLLM and its processor; never with randomly initialised weights.

    Args:
        args: ``nano-mllm``, a Hugging Face name, or a folder; and the weights' dtype.

    Raises:
        UserError: It can't be loaded, its family is not supported, weights are missing, or it contains an adapter or a
            head that the family does not have.
    """
    source = str(NANO_MLLM) if args.model == "nano-mllm" else args.model
    local = Path(source).is_dir()
    if local:
        check_model_folder(Path(source))
    else:
        check_hub()
    refuse_adapter(args.model, source)
    try:
        kind = AutoConfig.from_pretrained(source).model_type
    except Exception as error:
        raise _loading_error(args.model, error) from None
    check_kind(args.model, kind)  # before gigabytes are downloaded
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forked data-loading workers warn otherwise
    loading = four_bits(args.dtype) if args.quantize == "4bit" else {}
    if args.attn_implementation is not None:
        loading["attn_implementation"] = {"text_config": args.attn_implementation}
    try:
        processor = AutoProcessor.from_pretrained(source)
        model, report = AutoModelForImageTextToText.from_pretrained(
            source, dtype=getattr(torch, args.dtype), output_loading_info=True, use_safetensors=True, **loading
        )
        folder = Path(source) if local else Path(snapshot_download(source, local_files_only=True))
    except Exception as error:
        raise _loading_error(args.model, error) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"ranker.model={args.model}: its files lack {len(missing)} weights, such as {missing[0]}")
    heads = sorted(key for key in report["unexpected_keys"] if key.startswith(("score.", "classifier.")))
    reranker = find_reranker(args, folder, processor)
    if heads and (reranker is None or reranker.head is None):
        raise UserError(
            f"ranker.model={args.model}: has a head of its own ({heads[0]}), as some rerankers do, which would be left "
            "out; take a model that answers with tokens, such as Qwen/Qwen3-VL-Reranker-2B"
        )
    family = prepare_base(args, kind, processor, model)
    if args.quantize == "4bit":  # norms and embeddings in float32, as QLoRA trains
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    mllm = Mllm(model.eval(), processor, family, f"{kind}-{weights_hash(folder)}", args.tree_tokens, reranker)
    # A base's generation config may sample, penalise repetition or forbid words; here decoding is always greedy.
    mllm.base.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=mllm.turn_end_id, pad_token_id=processor.tokenizer.pad_token_id
    )
    if family.found:
        log.info("%s: family %s is not in the table of supported families, and is checked", args.model, kind)
        failure = find_failure(mllm, mllm.tolerance)
        if failure is not None:
            raise missing_part(args.model, kind, failure)
    return mllm
