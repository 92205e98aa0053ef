"""Trains nano-mllm from scratch: a small LLaVA that sees armory's shields and binds letters.

It has two stages, both on base blazons only. First the tower learns a blazon's details by classification. Then the
projector, initialized from those classifiers, and the language model learn on the frozen tower's cached features to
name a shield, to choose a candidate by letter and to sort candidates as a list. Two auxiliary probes, dropped
afterwards, supervise the steps of choosing: on a middle layer, whether the image shows the detail that a word names; on
a later one, at a candidate's end, whether it is the true one. The resulting accuracies are in
``recipes/nano_mllm.yaml``.
"""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from data_prep.armory.base_corpus import BaseCorpus, base_corpus
from data_prep.core.files import fingerprint, write_folder
from data_prep.core.manifests import seal_folder
from data_prep.settings import NanoArgs, Recipe
from rar_train.engine.run_folder import is_complete
from rar_train.engine.schedule import warmup_cosine
from rar_train.engine.trainer import make_device_trainer
from rar_train.nano.architecture import PIXELS, nano_config, nano_processor
from rar_train.nano.conversations import Conversations, TextBatch
from rar_train.nano.manifest import write_nano_manifest
from rar_train.nano.tower import HELD_OUT, index_loader, init_projector, tower_features, train_tower

log = logging.getLogger(__name__)

_VERSION = 2  # version of the conversations and losses: increase it when they change


class LanguageModule(L.LightningModule):
    """Stage two: trains the projector and language model on the frozen tower's features."""

    WORD_LAYER, END_LAYER = 3, 4

    def __init__(self, model: LlavaForConditionalGeneration, features: Tensor, corpus: BaseCorpus, args: NanoArgs):
        super().__init__()
        self.model, self.features, self.args = model, features, args
        self.conversations = Conversations(corpus)
        width = model.config.text_config.hidden_size
        self.word_probe, self.end_probe = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, batch: TextBatch, rows: np.ndarray) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Returns the loss on the answers, the logits at labelled tokens and the hidden states."""
        inner, ids = self.model.model, batch.ids.to(self.device)
        embeds = inner.language_model.embed_tokens(ids)
        images = inner.multi_modal_projector(self.features[torch.as_tensor(rows)].float().to(self.device))
        is_image = (ids == self.model.config.image_token_id).unsqueeze(-1)
        embeds = embeds.masked_scatter(is_image, images.reshape(-1))
        output = inner.language_model(
            inputs_embeds=embeds,
            attention_mask=(ids != self.conversations.tokenizer.pad_token_id).long(),
            output_hidden_states=True,
            use_cache=False,
        )
        targets = F.pad(batch.labels.to(self.device)[:, 1:], (0, 1), value=-100)
        labelled = targets != -100
        logits = self.model.lm_head(output.last_hidden_state[labelled])
        return F.cross_entropy(logits, targets[labelled]), logits, output.hidden_states

    def training_step(self, rows: np.ndarray, step: int) -> Tensor:
        """Computes the loss: naming on some of the rows, letters on others, lists on a few."""
        rng = np.random.default_rng([self.args.seed + 1, step])
        naming_rows, letter_rows, sorting_rows = np.split(
            rng.permutation(rows), [self.args.naming, self.args.naming + self.args.letters]
        )
        naming, _, _ = self(self.conversations.naming(naming_rows), naming_rows)
        batch = self.conversations.letters(letter_rows, rng)
        letters, logits, hidden = self(batch, letter_rows)
        words = self._probe_loss(self.word_probe, hidden[self.WORD_LAYER], batch.words, batch.shown)
        ends = self._probe_loss(self.end_probe, hidden[self.END_LAYER], batch.ends, batch.true)
        sorting, _, _ = self(self.conversations.sorting(sorting_rows, rng), sorting_rows)
        # The answer is a letter and the turn's end, so every second labelled logit is a letter's.
        letter_hits = logits[::2].argmax(1).cpu() == batch.labels[batch.labels != -100][::2]
        self.log_dict(
            {
                "mllm/naming": naming,
                "mllm/letters": letters,
                "mllm/words": words,
                "mllm/ends": ends,
                "mllm/sorting": sorting,
                "mllm/letter_accuracy": letter_hits.float().mean(),
            }
        )
        return naming + 2 * letters + 2 * words + 2 * ends + 0.5 * sorting

    def _probe_loss(self, probe: nn.Linear, hidden: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        """Computes a probe's binary cross-entropy on the hidden states at positions ``[n, 2]`` (row, token)."""
        logits = probe(hidden[positions[:, 0], positions[:, 1]]).squeeze(1)
        return F.binary_cross_entropy_with_logits(logits, targets.to(self.device))

    def configure_optimizers(self) -> dict:
        """Builds AdamW with warm-up and cosine decay."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.args.language_lr, weight_decay=0.05, betas=(0.9, 0.98))
        return warmup_cosine(optimizer, 0.03, self.args.language_steps)


def train_language(
    recipe: Recipe, model: LlavaForConditionalGeneration, features: Tensor, corpus: BaseCorpus
) -> LanguageModule:
    """Runs stage two, or loads its result from the cache.

    Args:
        recipe: Gives run folder, cache and hyperparameters.
        model: Model with a trained tower and an initialized projector; trained in place.
        features: The tower's features of the full corpus.
        corpus: Images and blazons.
    """
    args = recipe.nano
    choices = {"name": "language", "seed": args.seed + 1, "steps": args.language_steps, "lr": args.language_lr}
    choices |= {"naming": args.naming, "letters": args.letters, "sorting": args.sorting}
    cached = Path(recipe.cache) / f"nano-language-{fingerprint([_VERSION, _tower_key(recipe, corpus), choices])}"
    L.seed_everything(args.seed + 1)
    module = LanguageModule(model, features, corpus, args)
    if is_complete(cached):
        log.info("language: reusing %s", cached.name)
        load_model(model, cached / "model.safetensors")
        return module
    log.info("language: training %d steps", args.language_steps)
    rows = args.naming + args.letters + args.sorting
    loader = index_loader(len(corpus.images) - HELD_OUT, rows, args.seed + 1)
    make_device_trainer(recipe, Path(recipe.out) / "language", args.language_steps).fit(module, loader)
    with write_folder(cached) as part:
        save_model(model, part / "model.safetensors")
        seal_folder(part, {})
    return module


def _tower_key(recipe: Recipe, corpus: BaseCorpus) -> list:
    args = recipe.nano
    return [corpus.fingerprint, args.tower_steps, args.tower_batch, args.tower_lr, nano_config().to_dict()]


def train_nano_mllm(recipe: Recipe) -> Path:
    """Runs both stages and saves the model, its processor and a manifest under ``recipe.out``.

    The manifest holds the recipe's settings, the corpus's fingerprint and accuracies on held-out base images.
    """
    args, out = recipe.nano, Path(recipe.out)
    L.seed_everything(args.seed)
    corpus = base_corpus(Path(recipe.cache), args.thousands, PIXELS, args.seed)
    held_out = np.arange(len(corpus.images) - HELD_OUT, len(corpus.images))
    model = LlavaForConditionalGeneration(nano_config())
    tower = train_tower(recipe, model, corpus)
    init_projector(model, tower)
    details = tower.accuracy(held_out)
    log.info("tower, held-out accuracy: %s", {name: round(value, 3) for name, value in details.items()})

    features = tower_features(model.model.vision_tower, corpus)
    model.model.vision_tower.requires_grad_(False)
    language = train_language(recipe, model, features, corpus)
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
    """Returns the share of images for which the highest-scoring letter is the truth's, among base candidates."""
    language.eval()
    hits = []
    for index, part in enumerate(np.array_split(rows, 20)):
        batch = language.conversations.letters(part, np.random.default_rng([7, index]))
        _, logits, _ = language(batch, part)
        hits.append(logits[::2].argmax(1) == batch.labels[batch.labels != -100][::2])
    return torch.cat(hits).float().mean().item()
