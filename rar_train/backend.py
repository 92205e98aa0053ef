"""The MLLM: one backend for the families of ``AutoModelForImageTextToText``, and a table of facts."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BatchFeature, ProcessorMixin

import rar_train.timm_tower  # noqa: F401  (registers nano-mllm's tower)
from data_prep.errors import UserError
from data_prep.files import file_hash, fingerprint
from data_prep.hub import settle_hub
from data_prep.prompts import LETTERS
from data_prep.settings import RankerArgs

log = logging.getLogger(__name__)

NANO_MLLM = Path(__file__).resolve().parent / "assets" / "nano-mllm"


@dataclass(frozen=True)
class Family:
    """What differs between families.

    Attributes:
        language: Regular expression of the language model's linear layers.
        projector: Regular expression of the projector's linear layers.
        vision: The vision tower's place in the model; it stays frozen and in eval mode.
    """

    language: str = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    projector: str = r".*multi_modal_projector\.linear_[12]"
    vision: str = "model.vision_tower"


FAMILIES = {"llava": Family()}


class Mllm:
    """A model with its processor.

    Attributes:
        model: The model, or the same wrapped by peft.
        processor: Its processor.
        family: Its family's facts.
        id: Family and weights hash.
    """

    def __init__(self, model: nn.Module, processor: ProcessorMixin, family: Family, identifier: str):
        self.model, self.processor, self.family, self.id = model, processor, family, identifier
        self._answers = lru_cache(maxsize=200_000)(self._tokenise_answer)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def render(self, prompt: str, answer: str | None = None, images: int = 1) -> str:
        """One turn about images by the model's own chat template.

        Args:
            prompt: What the user asks.
            answer: The assistant's turn; without it the text ends where the model would go on.
            images: How many stand before the prompt.
        """
        user = {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": prompt}]}
        if answer is None:
            return self.processor.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
        turn = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        text = self.processor.apply_chat_template([user, turn], tokenize=False).rstrip()
        # Some templates (LLaVA-1.5's) leave the turn's end to the reader.
        end = self.processor.tokenizer.eos_token
        return text if text.endswith(end) else text + end

    def _tokenise_answer(self, prompt: str, answer: str) -> tuple[int, ...]:
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

    def letter_ids(self, prompt: str, count: int) -> list[int]:
        """The first ``count`` letters' token ids as answers to a prompt.

        Raises:
            UserError: Two letters share their first token, so one logit can't stand for each.
        """
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
            raise UserError(f"{self.id}: its chat template does not take several images; set eval.examples=false")
        return self._process(groups, texts, "left")

    def labelled(self, images: Sequence[Image.Image], prompts: Sequence[str], answers: Sequence[str]) -> BatchFeature:
        """Model inputs with answers, padded on the right, and ``labels`` on the answers' tokens."""
        texts = [self.render(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        batch = self._process(images, texts, "right")
        labels = torch.full_like(batch["input_ids"], -100)
        lengths = batch["attention_mask"].sum(1).tolist()
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = torch.tensor(self.answer_ids(prompt, answer))
            place = slice(lengths[row] - len(ids), lengths[row])
            if not torch.equal(batch["input_ids"][row, place], ids):
                raise UserError(f"{self.id}: the answer {answer!r} is tokenised otherwise beside an image")
            labels[row, place] = ids
        batch["labels"] = labels
        return batch

    def _process(self, images: Sequence[Image.Image], texts: list[str], side: str) -> BatchFeature:
        return self.processor(
            images=list(images),
            text=texts,
            padding=True,
            padding_side=side,
            return_tensors="pt",
            add_special_tokens=not texts[0].startswith(self.processor.tokenizer.bos_token or "\0"),
        )


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


def load_mllm(args: RankerArgs) -> Mllm:
    """Loads an MLLM and its processor; never with random weights.

    Args:
        args: ``nano-mllm``, a Hugging Face name, or a folder; and the weights' type.

    Raises:
        UserError: It can't be had, its family is not in the table, or weights are missing in it.
    """
    source = str(NANO_MLLM) if args.model == "nano-mllm" else args.model
    local = Path(source).is_dir()
    if not local:
        settle_hub()
    try:
        kind = AutoConfig.from_pretrained(source).model_type
    except Exception as error:
        raise _unloadable(args.model, error) from None
    if kind not in FAMILIES:  # before gigabytes are fetched
        raise UserError(f"ranker.model={args.model}: family {kind} is not supported; there are {', '.join(FAMILIES)}")
    try:
        processor = AutoProcessor.from_pretrained(source)
        model, report = AutoModelForImageTextToText.from_pretrained(
            source, dtype=getattr(torch, args.dtype), output_loading_info=True, use_safetensors=True
        )
        folder = Path(source) if local else Path(snapshot_download(source, local_files_only=True))
    except Exception as error:
        raise _unloadable(args.model, error) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"ranker.model={args.model}: its files lack {len(missing)} weights, such as {missing[0]}")
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return Mllm(model.eval(), processor, FAMILIES[kind], f"{kind}-{weights_hash(folder)}")


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Stacks rows of ids, padded on the right: shape ``[n, longest]``."""
    return nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=value)
