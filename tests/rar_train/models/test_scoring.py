"""One pass over a prefix tree gives the scores and gradients of a pass for each conversation, in any company."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable

import pytest
import torch
from PIL import Image
from torch import Tensor

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import NAMING, letters_prompt, list_answer, list_prompt
from data_prep.settings import LoraArgs, RankerArgs
from rar_train.models import scoring
from rar_train.models.forest import Conversation
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora
from rar_train.models.mllm import Mllm
from rar_train.models.planting import plant
from rar_train.models.scoring import score, split_by_row, takes_trees
from tests.rar_train.separate_passes import in_one_pass, naive

NAMES = ["azure, a bend or", "azure, a bend or, three mullets argent", "gules, a pale argent", "or"]
ASKED = [
    [Conversation(letters_prompt(NAMES)), *(Conversation(NAMING, name) for name in NAMES)],
    [Conversation(NAMING, "azure, a bend or"), Conversation(list_prompt(NAMES[:2]), list_answer(NAMES[:2]))],
    [Conversation(letters_prompt(NAMES[1:])), Conversation(letters_prompt(NAMES[:0:-1]))],
]


@pytest.fixture
def images(pictures) -> list[Image.Image]:
    return pictures[:3]


@pytest.mark.parametrize("budget", [1, 20, 2048])
def test_scores_are_those_of_a_full_pass_for_each_conversation_however_trees_are_split(either, images, budget):
    mllm = Mllm(either.model, either.processor, either.family, either.id, budget)
    with torch.no_grad():
        expected = naive(mllm, images, ASKED)
        torch.testing.assert_close(in_one_pass(mllm, images, ASKED), expected, rtol=1e-4, atol=1e-3)
    rows = len(plant(mllm, images, ASKED).lengths)
    assert rows == 3 if budget == 2048 else rows > 3


def test_scores_are_the_same_alone_and_in_a_batch(either, images):
    with torch.no_grad():
        together = score(either, plant(either, images, ASKED), either.letter_ids(4))
        alone = [
            score(either, plant(either, [image], [row]), either.letter_ids(4))
            for image, row in zip(images, ASKED, strict=True)
        ]
    torch.testing.assert_close(together.letters, torch.cat([one.letters for one in alone]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together.answers, torch.cat([one.answers for one in alone]), rtol=1e-4, atol=1e-3)


def test_what_conversations_share_is_processed_once(nano, images):
    assert NAMES[1].startswith(NAMES[0])
    both = plant(nano, images[:1], [[Conversation(NAMING, name) for name in NAMES[:2]]])
    longer = plant(nano, images[:1], [[Conversation(NAMING, NAMES[1])]])
    assert both.tokens == longer.tokens and len(both.pixels["pixel_values"]) == 1


def test_the_vocabulary_is_read_only_where_an_answer_is_scored(nano, images, monkeypatch):
    read, letters = [], nano.letter_ids(4)
    original = scoring.token_log_probs
    monkeypatch.setattr(
        scoring,
        "token_log_probs",
        lambda mllm, states, *rest: (read.append(len(states)), original(mllm, states, *rest))[1],
    )
    with torch.no_grad():
        scores = score(nano, plant(nano, images[2:], ASKED[2:]), letters)
        assert read == [] and scores.answers.shape == (0,) and scores.letters.shape == (2, 4)
        forest = plant(nano, images[:1], ASKED[:1])
        score(nano, forest, letters)
    assert read == [len(forest.reads) - 1]  # one of them is the letters'


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_pass_is_compared_without_autocast(dtype, monkeypatch):
    mllm, enabled = add_lora(load_mllm(RankerArgs(dtype=dtype)), LoraArgs(rank=2, projector="full")), []
    original = scoring.read_states
    monkeypatch.setattr(
        scoring, "read_states", lambda *args: (enabled.append(torch.is_autocast_enabled("cpu")), original(*args))[1]
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert takes_trees(mllm)
    assert enabled == [False]


def test_gradients_are_those_of_separate_passes_with_and_without_gradient_checkpointing(fresh, images):
    def gradients(function: Callable[..., Tensor], checkpointing: bool) -> Tensor:
        torch.manual_seed(0)
        mllm = add_lora(fresh(), LoraArgs(rank=2))
        for name, parameter in mllm.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        if checkpointing:
            mllm.base.gradient_checkpointing_enable({"use_reentrant": False})
        mllm.model.train()
        mllm.base.get_submodule(mllm.family.vision).eval()  # batch statistics would depend on the batch
        scores = function(mllm, images, ASKED)
        (scores @ torch.linspace(-1, 1, len(scores))).backward()
        return torch.cat([p.grad.flatten() for p in mllm.model.parameters() if p.grad is not None])

    expected = gradients(naive, False)
    for checkpointing in (False, True):
        difference = gradients(in_one_pass, checkpointing) - expected
        assert difference.norm() <= 1e-5 * expected.norm()


def test_a_half_precision_base_is_scored_in_float32(images):
    mllm = load_mllm(RankerArgs(dtype="bfloat16"))
    with torch.no_grad():
        scores = score(mllm, plant(mllm, images, ASKED), mllm.letter_ids(4))
    assert scores.letters.dtype == scores.answers.dtype == torch.float32
    assert not torch.equal(scores.letters, scores.letters.bfloat16().float())


def test_trees_are_built_alike_in_another_process(nano, images):
    nano_there = pickle.loads(pickle.dumps(nano.without_model()))
    here, there = plant(nano, images, ASKED), plant(nano_there, images, ASKED)
    assert torch.equal(here.ids, pickle.loads(pickle.dumps(there)).ids) and here.paths == there.paths


def test_a_model_whose_attention_ignores_the_trees_mask_runs_conversations_one_by_one(images, monkeypatch, caplog):
    mllm, forward_types = load_mllm(RankerArgs()), []
    forward = mllm.base.model.forward

    def ignore_mask(*args, attention_mask, **kwargs):
        forward_types.append(attention_mask.ndim)
        return forward(*args, attention_mask=None if attention_mask.ndim == 4 else attention_mask, **kwargs)

    monkeypatch.setattr(mllm.base.model, "forward", ignore_mask)
    with torch.no_grad(), caplog.at_level(logging.INFO):
        scores = in_one_pass(mllm, images, ASKED)
        in_one_pass(mllm, images, ASKED)
    monkeypatch.undo()
    assert caplog.text.count("they run one by one") == 1 and 4 not in forward_types[5:]
    with torch.no_grad():
        torch.testing.assert_close(scores, naive(mllm, images, ASKED), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_both_attention_implementations_take_trees_and_the_log_says_it_once(implementation, images, caplog):
    mllm = load_mllm(RankerArgs(attn_implementation=implementation))
    with torch.no_grad(), caplog.at_level(logging.INFO):
        scores = in_one_pass(mllm, images, ASKED)
        torch.testing.assert_close(scores, naive(mllm, images, ASKED), rtol=1e-4, atol=1e-3)
        in_one_pass(add_lora(mllm, LoraArgs(rank=2)), images, ASKED)
    assert mllm.base.config.get_text_config()._attn_implementation == implementation
    assert caplog.text.count("one pass for all conversations about an image") == 1


def test_flash_attention_runs_conversations_one_by_one(monkeypatch, caplog):
    mllm = load_mllm(RankerArgs())
    monkeypatch.setattr(mllm.base.config.get_text_config(), "_attn_implementation", "flash_attention_2")
    with caplog.at_level(logging.INFO):
        assert not takes_trees(mllm)
    assert "attention flash_attention_2 takes no tree masks" in caplog.text


def test_a_processor_that_tokenises_a_prompt_differently_with_an_image_is_refused(monkeypatch):
    mllm = load_mllm(RankerArgs())
    inputs = mllm.inputs

    def change(images, prompts, side="left", pairs=()):
        batch = inputs(images, prompts, side, pairs)
        if prompts[0].startswith("Which"):
            batch["input_ids"][:, -1] += 1
        return batch

    monkeypatch.setattr(mllm, "inputs", change)
    with pytest.raises(UserError, match="tokenises a prompt differently with an image"):
        takes_trees(mllm)


def test_under_zero_3_all_processes_run_the_same_number_of_passes(nano, monkeypatch):
    """Where conversations run one by one, no process may run a pass in which the others take no part."""
    monkeypatch.setattr(next(nano.model.parameters()), "ds_id", 0, raising=False)  # as DeepSpeed marks what it shards
    monkeypatch.setattr(scoring.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(scoring.distributed, "all_reduce", lambda count, _: count.fill_(7))
    assert scoring._passes(nano, 3) == 7


@pytest.mark.parametrize("counts", [(2, 3), (3, 1, 2)])
def test_a_flat_list_of_scores_is_laid_out_by_row(counts):
    table = split_by_row(torch.arange(float(sum(counts))), counts)
    assert table.shape == (len(counts), max(counts))
    assert table[table.isfinite()].tolist() == list(range(sum(counts)))
    assert table.isfinite().sum(1).tolist() == list(counts)
