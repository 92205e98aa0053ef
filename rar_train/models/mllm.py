"""The MLLM: one backend for the families of ``AutoModelForImageTextToText``, and a table of facts."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
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
    BitsAndBytesConfig,
    GenerationConfig,
    ProcessorMixin,
)

import rar_train.models.name_llava
import rar_train.models.timm_tower  # noqa: F401  (registers the tower of both embedded and lite models)
from data_prep.core.errors import UserError
from data_prep.core.files import file_hash, fingerprint
from data_prep.core.hub import settle_hub
from data_prep.core.manifests import check_model_folder
from data_prep.core.paths import NANO_MLLM
from data_prep.distributed.devices import own_gpu
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt
from data_prep.settings import RankerArgs
from rar_train.models.base_checks import check_tokens, refuse_adapter, settle_template
from rar_train.models.families import FAMILIES, Family
from rar_train.models.plain_text import PlainText, control_tokens

log = logging.getLogger(__name__)


# Stands for an answer where a template is rendered to see what it puts before one; no template trims or splits it.
_ANSWER = "THE-ANSWER-STANDS-HERE"


class Mllm:
    """A model with its processor.

    Attributes:
        model: The model, or the same wrapped by peft.
        processor: Its processor.
        family: Its family's facts.
        id: Family and weights hash.
        plain: Writes control tokens in names as ordinary text, and reads them back.
    """

    def __init__(self, model: nn.Module, processor: ProcessorMixin, family: Family, identifier: str):
        self.model, self.processor, self.family, self.id = model, processor, family, identifier
        self.plain = PlainText(control_tokens(processor))
        self._answers = lru_cache(maxsize=200_000)(self._tokenise_answer)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def base(self) -> nn.Module:
        """The transformers model itself, under the adapter where there is one."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def turn_end(self) -> str:
        """The token that ends an answer."""
        return self.family.turn_end or self.processor.tokenizer.eos_token

    @property
    def turn_end_id(self) -> int:
        """The id of the token that ends an answer: where generation stops."""
        return self.processor.tokenizer.convert_tokens_to_ids(self.turn_end)

    def render(self, prompt: str, answer: str | None = None, images: int = 1) -> str:
        """One turn about images by the model's own chat template; control tokens in what is said are ordinary text.

        Args:
            prompt: What the user asks.
            answer: The assistant's turn; without it the text ends where the model would go on.
            images: How many stand before the prompt.
        """
        text = {"type": "text", "text": self.plain.broken(prompt)}
        user = {"role": "user", "content": [{"type": "image"}] * images + [text]}
        if answer is None:
            return self.processor.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
        turn = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
        whole = self.processor.apply_chat_template([user, turn], tokenize=False)
        # What templates write after an answer differs (nothing, white space, a misspelt token); a model is to learn
        # the answer and the turn's end alone.
        return whole.rpartition(_ANSWER)[0] + self.plain.broken(answer) + self.turn_end

    def _tokenise_answer(self, prompt: str, answer: str) -> tuple[int, ...]:
        if self.family.suffix:
            said = self.plain.broken(answer) + self.turn_end
            return tuple(self.processor.tokenizer(said, add_special_tokens=False).input_ids)
        head = self.processor.tokenizer(self.render(prompt)).input_ids
        full = self.processor.tokenizer(self.render(prompt, answer)).input_ids
        if full[: len(head)] != head:
            raise UserError(
                f"{self.id}: the chat template's prompt is not a prefix of the whole conversation in tokens, "
                f"so the answer {answer!r} can't be told from it; this model's template is not supported"
            )
        return tuple(full[len(head) :])

    def answer_ids(self, prompt: str, answer: str) -> tuple[int, ...]:
        """The token ids of an answer and the turn's end, as they follow the prompt."""
        return self._answers(prompt, answer)

    def letter_ids(self, count: int) -> list[int]:
        """The first ``count`` letters' token ids as answers; what is listed before does not change them.

        Raises:
            UserError: Two letters share their first token, so one logit can't stand for each.
        """
        prompt = letters_prompt(["-"])  # always the same, so that its answers are tokenised once
        ids = [self.answer_ids(prompt, letter)[0] for letter in LETTERS[:count]]
        if len(set(ids)) < count:
            raise UserError(f"{self.id}: its tokenizer does not give each letter a token of its own")
        return ids

    def inputs(self, images: Sequence[Image.Image | Sequence[Image.Image]], prompts: Sequence[str]) -> BatchFeature:
        """Model inputs for one image and prompt a row, or several images and a prompt, padded on the left.

        Raises:
            UserError: Several images, and the chat template shows one alone.

        Returns:
            BatchFeature: ``input_ids`` and ``attention_mask`` of shape ``[n, t]``, pixels, and
            whatever else the family's processor gives.
        """
        groups = [[own] if isinstance(own, Image.Image) else list(own) for own in images]
        texts = [self.render(prompt, images=len(own)) for prompt, own in zip(prompts, groups, strict=True)]
        most, mark = max(range(len(groups)), key=lambda row: len(groups[row])), self.processor.image_token
        if len(groups[most]) > 1 and texts[most].count(mark) != len(groups[most]) * self.render("").count(mark):
            raise UserError(f"{self.id}: its chat template does not take several images; set eval.show_exemplars=false")
        return self._process(groups, texts, "left")

    def labelled(
        self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str], side: str = "right"
    ) -> BatchFeature:
        """Model inputs with answers, and ``labels`` on the answers' tokens; ``side`` says where padding goes."""
        groups = [[image] for image in images]
        if self.family.suffix:
            suffix = [self.plain.broken(answer) for answer in answers]
            batch = self._process(groups, [self.render(prompt) for prompt in prompts], side, suffix=suffix)
        else:
            texts = [self.render(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
            batch = self._process(groups, texts, side)
        labels = torch.full_like(batch["input_ids"], -100)
        width = labels.shape[1]
        ends = batch["attention_mask"].sum(1).tolist() if side == "right" else [width] * len(answers)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = torch.tensor(self.answer_ids(prompt, answer))
            place = slice(ends[row] - len(ids), ends[row])
            if not torch.equal(batch["input_ids"][row, place], ids):
                raise UserError(f"{self.id}: the answer {answer!r} is tokenised otherwise beside an image")
            labels[row, place] = ids
        batch["labels"] = labels
        return batch

    def _process(self, groups: list[list[Image.Image]], texts: list[str], side: str, **more) -> BatchFeature:
        inputs = self.processor(
            images=groups,
            text=texts,
            padding=True,
            padding_side=side,
            return_tensors="pt",
            add_special_tokens=not texts[0].startswith(self.processor.tokenizer.bos_token or "\0"),
            **more,
        )
        inputs.pop("labels", None)  # PaliGemma's processor makes some of its own
        return inputs


def _unloadable(model: str, error: Exception) -> UserError:
    reason = str(error).splitlines()[0] if str(error) else ""
    said = f"ranker.model={model}: could not be loaded ({type(error).__name__}: {reason})."
    if Path(model).is_dir():
        return UserError(f"{said} The folder needs config.json, undamaged safetensors and the processor's files.")
    return UserError(
        f"{said} Without a network, give ranker.model=FOLDER of a local copy with config.json, safetensors and the "
        "processor's files."
    )


def _sha256_of(path: Path) -> str:
    # The hub's cache names a large file by its SHA-256, and snapshots link to it.
    stored = path.resolve().name
    return stored if re.fullmatch("[0-9a-f]{64}", stored) else file_hash(path)


def weights_hash(folder: Path) -> str:
    """Identifies a model by its safetensors, wherever it lies: 16 hexadecimal digits."""
    return fingerprint({path.name: _sha256_of(path) for path in folder.glob("*.safetensors")})


def check_four_bits() -> None:
    """Makes sure that four bits can be had.

    Raises:
        UserError: There is no CUDA GPU, or no bitsandbytes.
    """
    if not torch.cuda.is_available():
        raise UserError("ranker.quantize=4bit: needs a CUDA GPU, and torch sees none here; set it to none")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("ranker.quantize=4bit: needs bitsandbytes; pip install bitsandbytes, or set it to none")


def _four_bits(dtype: str) -> dict:
    """QLoRA's quantisation of the base, on the process's own GPU; transformers would take the first one in each."""
    check_four_bits()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": config, "device_map": {"": own_gpu() if torch.cuda.is_available() else "cpu"}}


def prepare_base(args: RankerArgs, kind: str, processor: ProcessorMixin, model: nn.Module) -> Family:
    """Gives processor and model what their family lacks and what the settings ask for.

    Returns:
        Family: The facts of the family ``kind``.

    Raises:
        UserError: Chat template, tokens or sizes do not serve, or images have a fixed size and a budget is asked for.
    """
    family = FAMILIES[kind]
    settle_template(args.model, processor, family)
    if processor.tokenizer.eos_token is None:
        raise UserError(f"ranker.model={args.model}: its tokenizer_config.json is missing or names no eos_token")
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    if family.settle is not None:
        family.settle(processor)
    if args.max_pixels is not None:
        if family.budget is None:
            raise UserError(f"ranker.max_pixels={args.max_pixels}: images of the family {kind} have a fixed size")
        family.budget(processor, model, args.max_pixels)
    try:
        asked = Mllm(model, processor, family, args.model).inputs([Image.new("RGB", (64, 64))], [NAMING])
    except Exception as error:  # processors of incomplete files raise errors of many kinds
        raise _unloadable(args.model, error) from None
    check_tokens(args.model, processor, model, asked["input_ids"])
    return family


def load_mllm(args: RankerArgs) -> Mllm:
    """Loads an MLLM and its processor; never with random weights.

    Args:
        args: ``nano-mllm``, a Hugging Face name, or a folder; and the weights' type.

    Raises:
        UserError: It can't be had, its family is not in the table, weights are missing in it, or it has an adapter.
    """
    source = str(NANO_MLLM) if args.model == "nano-mllm" else args.model
    local = Path(source).is_dir()
    if local:
        check_model_folder(Path(source))
    else:
        settle_hub()
    refuse_adapter(args.model, source)
    try:
        kind = AutoConfig.from_pretrained(source).model_type
    except Exception as error:
        raise _unloadable(args.model, error) from None
    if kind not in FAMILIES:  # before gigabytes are fetched
        raise UserError(f"ranker.model={args.model}: family {kind} is not supported; there are {', '.join(FAMILIES)}")
    quantized = _four_bits(args.dtype) if args.quantize == "4bit" else {}
    try:
        processor = AutoProcessor.from_pretrained(source)
        model, report = AutoModelForImageTextToText.from_pretrained(
            source, dtype=getattr(torch, args.dtype), output_loading_info=True, use_safetensors=True, **quantized
        )
        folder = Path(source) if local else Path(snapshot_download(source, local_files_only=True))
    except Exception as error:
        raise _unloadable(args.model, error) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"ranker.model={args.model}: its files lack {len(missing)} weights, such as {missing[0]}")
    family = prepare_base(args, kind, processor, model)
    if args.quantize == "4bit":  # norms and embeddings in float32, as QLoRA trains
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    mllm = Mllm(model.eval(), processor, family, f"{kind}-{weights_hash(folder)}")
    # A base's own may sample, punish repetition or forbid words; decoding is greedy for all.
    mllm.base.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=mllm.turn_end_id, pad_token_id=processor.tokenizer.pad_token_id
    )
    return mllm


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Stacks rows of ids, padded on the right: shape ``[n, longest]``."""
    return nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)
