"""Trains nano-mllm from scratch: a small LLaVA that sees armory's shields and binds letters.

Two stages on base blazons only. The tower learns a blazon's details by classification. Then the
projector and language model learn, on the frozen tower's cached features, to name a shield, to
choose a candidate by letter and to sort candidates as a list. Choosing is learned late from one
letter per example, so a probe on a middle layer, dropped afterwards, also asks at the end of
every listed candidate which of its details the picture shows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    CLIPImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from data_prep.base_corpus import BaseCorpus, base_corpus, detail_indices
from data_prep.blazon import DETAILS, Blazon, random_blazon_of, split_of
from data_prep.files import fingerprint, write_folder
from data_prep.prompts import LETTERS, NAMING, letters_prompt, list_answer, list_prompt
from data_prep.recipe import NanoArgs, Recipe
from rar_train.nano_manifest import write_nano_manifest
from rar_train.nano_tokenizer import IMAGE, nano_tokenizer
from rar_train.schedule import warmup_cosine
from rar_train.timm_tower import TimmTowerConfig

log = logging.getLogger(__name__)

PIXELS = 64
STRIDE = 16
HELD_OUT = 1000
"""Pictures at the corpus's end that training leaves out."""
TOKENS = (PIXELS // STRIDE) ** 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% else %} ASSISTANT: {% for part in message['content'] %}{{ part['text'] }}{% endfor %}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def nano_config() -> LlavaConfig:
    """The architecture: a four-stage residual tower at 64 pixels and a Llama of five layers."""
    tokenizer = nano_tokenizer(append_eos=False)
    return LlavaConfig(
        vision_config=TimmTowerConfig(
            architecture="resnet18",
            architecture_args={
                "layers": [1, 1, 1, 1],
                "channels": [48, 96, 192, 192],
                "stem_type": "deep",
                "stem_width": 16,
                "replace_stem_pool": True,
                # Zero-initialised residual branches learn about half as fast here.
                "zero_init_last": False,
            },
            stage=3,
            hidden_size=192,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )


def nano_processor() -> LlavaProcessor:
    """The processor that goes with ``nano_config``, with LLaVA-1.5's turn markers."""
    size = {"height": PIXELS, "width": PIXELS}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size=size, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3
        ),
        tokenizer=nano_tokenizer(append_eos=False),
        patch_size=STRIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=CHAT_TEMPLATE,
    )


def to_pixel_values(images: np.ndarray) -> Tensor:
    """Scales uint8 images ``[n, h, w, 3]`` as the processor does, to ``[n, 3, h, w]`` in -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


class RandomBatches(IterableDataset):
    """An endless seeded stream of index arrays over a corpus."""

    def __init__(self, n: int, batch_size: int, seed: int):
        self.n, self.batch_size, self.seed = n, batch_size, seed

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        while True:
            yield np.sort(rng.choice(self.n, self.batch_size, replace=False))


def index_loader(n: int, batch_size: int, seed: int) -> DataLoader:
    """A loader of ``RandomBatches``; the modules look the rows up themselves."""
    return DataLoader(RandomBatches(n, batch_size, seed), batch_size=None)


class TowerModule(L.LightningModule):
    """Stage one: the tower's mean token classifies every detail of the blazon."""

    def __init__(self, tower: nn.Module, corpus: BaseCorpus, args: NanoArgs):
        super().__init__()
        self.tower, self.corpus, self.args = tower, corpus, args
        width = tower.config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, len(values)) for values in DETAILS.values())
        self.register_buffer("details", torch.as_tensor(corpus.details), persistent=False)

    def training_step(self, rows: np.ndarray, _) -> Tensor:
        """Cross-entropy summed over the details."""
        pixels = to_pixel_values(self.corpus.images[rows]).to(self.device)
        shift = torch.randint(-4, 5, (2,)).tolist()
        pooled = self.tower(torch.roll(pixels, shift, (2, 3))).pooler_output
        targets = self.details[torch.as_tensor(rows)]
        losses = [F.cross_entropy(head(pooled), targets[:, i]) for i, head in enumerate(self.heads)]
        loss = torch.stack(losses).sum()
        self.log("tower/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> dict:
        """AdamW with warm-up and cosine decay."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.args.tower_lr, weight_decay=0.05)
        return warmup_cosine(optimizer, 0.05, self.args.tower_steps)

    @torch.no_grad()
    def accuracy(self, rows: np.ndarray) -> dict[str, float]:
        """Share of pictures whose detail is classified rightly, per detail."""
        self.eval()
        pooled = torch.cat(
            [self.tower(to_pixel_values(self.corpus.images[part])).pooler_output for part in np.array_split(rows, 20)]
        )
        hits = [(head(pooled).argmax(1) == self.details[rows, i]) for i, head in enumerate(self.heads)]
        return {name: hit.float().mean().item() for name, hit in zip(DETAILS, hits, strict=True)}


def tempting_wrong(truth: Blazon, rng: np.random.Generator) -> Blazon:
    """A base blazon that differs from the truth in one, two or all details."""
    changes = rng.choice([1, 2, 99], p=[0.5, 0.25, 0.25])
    if changes == 99:
        return random_blazon_of("base", rng)
    while True:
        details = rng.choice(list(DETAILS), changes, replace=False)
        other = replace(truth, **{d: DETAILS[d][rng.integers(len(DETAILS[d]))] for d in details})
        if other != truth and other.is_visible and split_of(other.name) == "base":
            return other


@dataclass
class TextBatch:
    """One task's conversations, right-padded.

    Attributes:
        ids: Token ids of shape ``[n, t]`` with ``TOKENS`` image tokens in each row.
        labels: Ids to predict, ``-100`` elsewhere.
        ends: Per candidate, its row and the position of its last token, shape ``[m, 2]``.
        matches: Per candidate, which details the picture shows, shape ``[m, 8]``.
    """

    ids: Tensor
    labels: Tensor
    ends: Tensor
    matches: Tensor


class Conversations:
    """Makes base training's conversations about pictures of a corpus."""

    def __init__(self, corpus: BaseCorpus):
        self.corpus = corpus
        self.tokenizer = nano_tokenizer(append_eos=False)
        self.newline = self.tokenizer.convert_tokens_to_ids("Ċ")
        self.image = IMAGE * TOKENS

    def _candidates(self, truth: Blazon, rng: np.random.Generator) -> list[Blazon]:
        count = int(rng.integers(3, 8)) if rng.random() < 0.4 else 5
        chosen = {truth.name: truth}
        while len(chosen) < count:
            other = tempting_wrong(truth, rng)
            chosen[other.name] = other
        blazons = list(chosen.values())
        return [blazons[i] for i in rng.permutation(count)]

    def _pack(self, prompts: list[str], answers: list[str]) -> tuple[Tensor, Tensor]:
        heads = [f"USER: {self.image}\n{prompt} ASSISTANT:" for prompt in prompts]
        head_ids = self.tokenizer(heads).input_ids
        answer_ids = self.tokenizer([f" {answer}</s>" for answer in answers]).input_ids
        rows = [torch.tensor(h + a) for h, a in zip(head_ids, answer_ids, strict=True)]
        masked = [torch.tensor([-100] * len(h) + a) for h, a in zip(head_ids, answer_ids, strict=True)]
        pad = nn.utils.rnn.pad_sequence
        return (
            pad(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id),
            pad(masked, batch_first=True, padding_value=-100),
        )

    def naming(self, rows: np.ndarray) -> TextBatch:
        """Asks for the name."""
        names = [self.corpus.blazons[row].name for row in rows]
        ids, labels = self._pack([NAMING] * len(rows), names)
        return TextBatch(ids, labels, torch.empty(0, 2, dtype=torch.long), torch.empty(0, len(DETAILS)))

    def letters(self, rows: np.ndarray, rng: np.random.Generator) -> TextBatch:
        """Asks for a candidate's letter."""
        prompts, answers, matches = [], [], []
        for row in rows:
            truth = self.corpus.blazons[row]
            candidates = self._candidates(truth, rng)
            prompts.append(letters_prompt([c.name for c in candidates]))
            answers.append(LETTERS[candidates.index(truth)])
            matches += [np.equal(detail_indices(c), self.corpus.details[row]) for c in candidates]
        ids, labels = self._pack(prompts, answers)
        newlines = (ids == self.newline).nonzero()
        # Row by row: after the image, after the head, then one at the end of each candidate.
        place = torch.cat([torch.arange(int(count)) for count in torch.bincount(newlines[:, 0])])
        ends = newlines[place >= 2]
        return TextBatch(ids, labels, ends, torch.as_tensor(np.stack(matches), dtype=torch.float32))

    def sorting(self, rows: np.ndarray, rng: np.random.Generator) -> TextBatch:
        """Asks for the candidates as a list, most details in common with the truth first."""
        prompts, answers = [], []
        for row in rows:
            candidates = self._candidates(self.corpus.blazons[row], rng)
            common = [int(np.equal(detail_indices(c), self.corpus.details[row]).sum()) for c in candidates]
            order = sorted(range(len(candidates)), key=lambda i: -common[i])
            prompts.append(list_prompt([c.name for c in candidates]))
            answers.append(list_answer([candidates[i].name for i in order]))
        ids, labels = self._pack(prompts, answers)
        return TextBatch(ids, labels, torch.empty(0, 2, dtype=torch.long), torch.empty(0, len(DETAILS)))


class LanguageModule(L.LightningModule):
    """Stage two: projector and language model on the frozen tower's features."""

    PROBED_LAYER = 3

    def __init__(self, model: LlavaForConditionalGeneration, features: Tensor, corpus: BaseCorpus, args: NanoArgs):
        super().__init__()
        self.model, self.features, self.args = model, features, args
        self.conversations = Conversations(corpus)
        self.probe = nn.Linear(model.config.text_config.hidden_size, len(DETAILS))

    def forward(self, batch: TextBatch, rows: np.ndarray) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Gives the loss on the answers, the labelled logits and the hidden states."""
        inner = self.model.model
        embeds = inner.language_model.embed_tokens(batch.ids)
        images = inner.multi_modal_projector(self.features[torch.as_tensor(rows)].float())
        is_image = (batch.ids == self.model.config.image_token_id).unsqueeze(-1)
        embeds = embeds.masked_scatter(is_image, images.reshape(-1))
        output = inner.language_model(
            inputs_embeds=embeds,
            attention_mask=(batch.ids != self.conversations.tokenizer.pad_token_id).long(),
            output_hidden_states=True,
            use_cache=False,
        )
        targets = F.pad(batch.labels[:, 1:], (0, 1), value=-100)
        labelled = targets != -100
        logits = self.model.lm_head(output.last_hidden_state[labelled])
        return F.cross_entropy(logits, targets[labelled]), logits, output.hidden_states

    def training_step(self, rows: np.ndarray, step: int) -> Tensor:
        """Naming on one part of the rows, letters on another, lists on a few."""
        rng = np.random.default_rng([self.args.seed, step])
        named, chosen, sorted_ = np.split(
            rng.permutation(rows), [self.args.naming, self.args.naming + self.args.letters]
        )
        naming, _, _ = self(self.conversations.naming(named), named)
        batch = self.conversations.letters(chosen, rng)
        letters, logits, hidden = self(batch, chosen)
        middle = hidden[self.PROBED_LAYER][batch.ends[:, 0], batch.ends[:, 1]]
        probe = F.binary_cross_entropy_with_logits(self.probe(middle), batch.matches)
        sorting, _, _ = self(self.conversations.sorting(sorted_, rng), sorted_)
        # The answer is a letter and the turn's end, so every second labelled logit is a letter's.
        letter_hits = logits[::2].argmax(1) == batch.labels[batch.labels != -100][::2]
        self.log_dict(
            {
                "mllm/naming": naming,
                "mllm/letters": letters,
                "mllm/probe": probe,
                "mllm/sorting": sorting,
                "mllm/letter_accuracy": letter_hits.float().mean(),
            }
        )
        return naming + 2 * letters + 2 * probe + 0.5 * sorting

    def configure_optimizers(self) -> dict:
        """AdamW with warm-up and cosine decay."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.args.language_lr, weight_decay=0.05, betas=(0.9, 0.98))
        return warmup_cosine(optimizer, 0.03, self.args.language_steps)


@torch.no_grad()
def tower_features(tower: nn.Module, corpus: BaseCorpus, batch_size: int = 250) -> Tensor:
    """Embeds the corpus by the frozen tower: half-precision features ``[n, tokens, channels]``."""
    tower.eval()
    starts = range(0, len(corpus.images), batch_size)
    return torch.cat(
        [tower(to_pixel_values(corpus.images[start : start + batch_size])).last_hidden_state.half() for start in starts]
    )


def nano_trainer(recipe: Recipe, folder: Path, steps: int) -> L.Trainer:
    """A Trainer on one device for a fixed number of steps, with its curve as CSV in ``folder/log``."""
    return L.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=recipe.trainer.accelerator,
        devices=1,
        gradient_clip_val=1.0,
        logger=CSVLogger(folder, name="", version="log"),
        log_every_n_steps=50,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def trained_tower(recipe: Recipe, model: LlavaForConditionalGeneration, corpus: BaseCorpus) -> dict[str, float]:
    """Stage one, or its result where the cache has it: fills the model's tower.

    Returns:
        dict: Held-out accuracy by detail.
    """
    args = recipe.nano
    choices = [corpus.fingerprint, args.seed, args.tower_steps, args.tower_batch, args.tower_lr]
    choices.append(model.config.vision_config.architecture_args)
    kept = Path(recipe.cache) / f"nano-tower-{fingerprint(choices)}"
    module = TowerModule(model.model.vision_tower, corpus, args)
    if kept.exists():
        log.info("tower: reusing %s", kept.name)
        load_model(module, kept / "tower.safetensors")
    else:
        L.seed_everything(args.seed)
        log.info("tower: training %d steps", args.tower_steps)
        loader = index_loader(len(corpus.images) - HELD_OUT, args.tower_batch, args.seed)
        nano_trainer(recipe, Path(recipe.out) / "tower", args.tower_steps).fit(module, loader)
        with write_folder(kept) as part:
            save_model(module, part / "tower.safetensors")
    return module.accuracy(np.arange(len(corpus.images) - HELD_OUT, len(corpus.images)))


def train_nano_mllm(recipe: Recipe) -> Path:
    """Runs both stages and saves the model, its processor and a manifest under ``recipe.out``.

    The manifest holds the recipe's choices, the corpus's fingerprint and accuracies on base
    pictures that training did not see.
    """
    args, out = recipe.nano, Path(recipe.out)
    L.seed_everything(args.seed)
    corpus = base_corpus(Path(recipe.cache), args.thousands, PIXELS, args.seed)
    held_out = np.arange(len(corpus.images) - HELD_OUT, len(corpus.images))
    model = LlavaForConditionalGeneration(nano_config())
    details = trained_tower(recipe, model, corpus)
    log.info("tower, held-out accuracy: %s", {name: round(value, 3) for name, value in details.items()})

    features = tower_features(model.model.vision_tower, corpus)
    model.model.vision_tower.requires_grad_(False)
    L.seed_everything(args.seed + 1)
    language = LanguageModule(model, features, corpus, args)
    rows = args.naming + args.letters + args.sorting
    loader = index_loader(len(corpus.images) - HELD_OUT, rows, args.seed + 1)
    nano_trainer(recipe, out / "language", args.language_steps).fit(language, loader)
    letters = letter_accuracy(language, held_out)
    log.info("language, held-out letter accuracy: %.3f", letters)

    with write_folder(out / "model") as part:
        model.eval().save_pretrained(part)
        nano_processor().save_pretrained(part)
        measured = {"detail_accuracy": details, "letter_accuracy": letters, "images": HELD_OUT}
        write_nano_manifest(part, recipe, corpus.fingerprint, measured)
    return out / "model"


@torch.no_grad()
def letter_accuracy(language: LanguageModule, rows: np.ndarray) -> float:
    """Share of pictures for which the likeliest letter is the truth's, on base candidates."""
    language.eval()
    hits = []
    for number, part in enumerate(np.array_split(rows, 20)):
        batch = language.conversations.letters(part, np.random.default_rng([7, number]))
        _, logits, _ = language(batch, part)
        hits.append(logits[::2].argmax(1) == batch.labels[batch.labels != -100][::2])
    return torch.cat(hits).float().mean().item()
