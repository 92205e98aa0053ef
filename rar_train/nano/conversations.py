"""Conversations of base training: naming a shield, choosing a candidate by letter, sorting candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.armory.base_corpus import BaseCorpus, detail_indices
from data_prep.armory.blazon import DETAILS, Blazon, owning_split, random_blazon_of_split
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_answer, list_prompt
from rar_train.nano.architecture import TOKENS
from rar_train.nano.tokenizer import IMAGE, nano_tokenizer


def sample_hard_negative(truth: Blazon, rng: np.random.Generator) -> Blazon:
    """Samples a base blazon that differs from the truth in one, two or all details."""
    changes = rng.choice([1, 2, 99], p=[0.5, 0.25, 0.25])
    if changes == 99:
        return random_blazon_of_split("base", rng)
    while True:
        details = rng.choice(list(DETAILS), changes, replace=False)
        other = replace(truth, **{d: DETAILS[d][rng.integers(len(DETAILS[d]))] for d in details})
        if other != truth and other.is_visible and owning_split(other.name) == "base":
            return other


@dataclass
class TextBatch:
    """One task's conversations, right-padded.

    Attributes:
        ids: Token ids of shape ``[n, t]`` with ``TOKENS`` image tokens in each row.
        labels: Ids to predict, ``-100`` elsewhere.
        words: Row and position of the last token of each phrase in the candidates' names, shape ``[w, 2]``.
        shown: Whether the image shows the details of that phrase, shape ``[w]``.
        ends: For each candidate, row and position of the token after its name, shape ``[m, 2]``.
        true: Whether the candidate is the truth, shape ``[m]``.
    """

    ids: Tensor
    labels: Tensor
    words: Tensor | None = None
    shown: Tensor | None = None
    ends: Tensor | None = None
    true: Tensor | None = None


class Conversations:
    """Builds base training's conversations about images of a corpus."""

    def __init__(self, corpus: BaseCorpus):
        self.corpus = corpus
        self.tokenizer = nano_tokenizer(append_eos=False)
        self.newline = self.tokenizer.convert_tokens_to_ids("Ċ")
        self.image = IMAGE * TOKENS

    def _sample_candidates(self, truth: Blazon, rng: np.random.Generator) -> list[Blazon]:
        count = int(rng.integers(3, 8)) if rng.random() < 0.4 else 5
        chosen = {truth.name: truth}
        while len(chosen) < count:
            other = sample_hard_negative(truth, rng)
            chosen[other.name] = other
        blazons = list(chosen.values())
        return [blazons[i] for i in rng.permutation(count)]

    def _phrase_lengths(self, blazon: Blazon) -> np.ndarray:
        """Counts the tokens of each phrase of a name as it appears in a list, shape ``[phrases]``."""
        (first, _), *others = blazon.phrases
        texts = [f" {first}", *(text for text, _ in others)]
        return np.array([len(ids) for ids in self.tokenizer(texts).input_ids])

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
        """Builds conversations that ask for the name."""
        names = [self.corpus.blazons[row].name for row in rows]
        ids, labels = self._pack([NAMING] * len(rows), names)
        return TextBatch(ids, labels)

    def letters(self, rows: np.ndarray, rng: np.random.Generator) -> TextBatch:
        """Builds conversations that ask for the true candidate's letter, with the positions that the probes read."""
        prompts, answers, listed, truths = [], [], [], []
        for row in rows:
            truth = self.corpus.blazons[row]
            candidates = self._sample_candidates(truth, rng)
            prompts.append(letters_prompt([c.name for c in candidates]))
            answers.append(LETTERS[candidates.index(truth)])
            listed += candidates
            truths += [truth] * len(candidates)
        ids, labels = self._pack(prompts, answers)
        newlines = (ids == self.newline).nonzero()
        # In each row: after the image, after the instruction, then one at the end of each candidate.
        index_in_row = torch.cat([torch.arange(int(count)) for count in torch.bincount(newlines[:, 0])])
        ends = newlines[index_in_row >= 2]
        words, shown = [], []
        for (row, end), candidate, truth in zip(ends.tolist(), listed, truths, strict=True):
            lengths = self._phrase_lengths(candidate)
            words += [(row, end - remaining - 1) for remaining in lengths.sum() - lengths.cumsum()]
            shown += [
                all(getattr(candidate, detail) == getattr(truth, detail) for detail in details)
                for _, details in candidate.phrases
            ]
        true = torch.tensor([c == t for c, t in zip(listed, truths, strict=True)])
        return TextBatch(ids, labels, torch.tensor(words), torch.tensor(shown).float(), ends, true.float())

    def sorting(self, rows: np.ndarray, rng: np.random.Generator) -> TextBatch:
        """Builds conversations that ask for a list, sorted by the number of details shared with the truth."""
        prompts, answers = [], []
        for row in rows:
            candidates = self._sample_candidates(self.corpus.blazons[row], rng)
            shared = [int(np.equal(detail_indices(c), self.corpus.details[row]).sum()) for c in candidates]
            order = sorted(range(len(candidates)), key=lambda i: -shared[i])
            prompts.append(list_prompt([c.name for c in candidates]))
            answers.append(list_answer([candidates[i].name for i in order]))
        ids, labels = self._pack(prompts, answers)
        return TextBatch(ids, labels)
