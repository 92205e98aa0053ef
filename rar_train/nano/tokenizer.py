"""The nano models' tokenizer: byte-level BPE, trained on armory's words and the prompts.

Every word of a blazon and of the prompts is one token; anything else falls back to bytes, so that a user's class names
keep their spelling.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from data_prep.armory.blazon import COUNT_WORDS, random_blazon_of_split
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_prompt

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
VOCABULARY = 1024


def _training_texts() -> list[str]:
    """Returns names, prompts and letters in the contexts in which the models read them."""
    rng = np.random.default_rng(0)
    names = [random_blazon_of_split("base", rng).name for _ in range(2000)]
    prompts = [
        text
        for start in range(0, 500, 5)
        for text in (
            letters_prompt(names[start : start + 5]),
            list_prompt(names[start : start + 5], structured=True),
            f"USER: {NAMING} ASSISTANT:",
        )
    ]
    letters = [f"{letter}. a\n ASSISTANT: {letter}" for letter in LETTERS] * 50
    counts = [f" {word} a" for word in COUNT_WORDS.values()] * 50
    return names + [f" {name}" for name in names] + prompts + letters + counts


def nano_tokenizer(append_eos: bool) -> PreTrainedTokenizerFast:
    """Trains the tokenizer, deterministically: it is the same on every machine.

    Args:
        append_eos: Whether encoding appends ``</s>``, as CLIP's text tower needs. The MLLM's chat template writes it
            itself.

    Returns:
        PreTrainedTokenizerFast: The tokenizer; ``</s>`` has the highest id, since open_clip pools there.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=append_eos)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=[PAD, BOS, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_texts(), trainer)
    tokenizer.add_special_tokens([EOS])
    if append_eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="right",
        extra_special_tokens={"image_token": IMAGE},
    )
