"""Models outside the table of families: their parts are found, and they are refused where a check fails."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import NAMING, letters_prompt
from data_prep.settings import LoraArgs, RankerArgs
from rar_train.families.table import FAMILIES
from rar_train.models.forest import Conversation
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora, load_adapter, parameter_table, save_adapter
from rar_train.models.mllm import Mllm
from tests.rar_train.separate_passes import in_one_pass, naive
from tests.rar_train.tiny_families import NAMES, save_tiny
from tests.rar_train.tiny_others import OTHERS

HIDDEN = ("llava_next", "qwen3_vl", "qwen3_5_moe", "gemma3", "granite4_vision")
"""Families that the table has, as if it had not."""
ASKED = [
    [Conversation(letters_prompt(NAMES)), Conversation(NAMING, NAMES[0]), Conversation(NAMING, NAMES[1])],
    [Conversation(NAMING, NAMES[2]), Conversation(letters_prompt(NAMES[::-1]))],
]


@pytest.fixture(params=[*OTHERS, *HIDDEN])
def folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A tiny model of each type in turn, outside the table."""
    monkeypatch.delitem(FAMILIES, request.param, raising=False)
    return save_tiny(request.param, tmp_path / request.param)


def log_probabilities(mllm: Mllm, pictures) -> torch.Tensor:
    with torch.no_grad():
        return mllm.model(**mllm.inputs(pictures[:2], [NAMING, letters_prompt(NAMES)])).logits[:, -1]


def test_a_model_outside_the_table_is_scored_as_by_itself_and_trained_by_scope(folder, pictures, tiny, tmp_path):
    mllm = load_mllm(RankerArgs(model=str(folder)))
    assert mllm.family.found
    with torch.no_grad():
        expected = naive(mllm, pictures[:2], ASKED)
        torch.testing.assert_close(in_one_pass(mllm, pictures[:2], ASKED), expected, rtol=1e-4, atol=1e-3)
    projector = "full" if mllm.family.projector is None else "lora"
    tuned = add_lora(mllm, LoraArgs(rank=2, scope="language+projector+vision", projector=projector))
    trained = {part: count for part, count, _ in parameter_table(tuned)}
    assert min(trained.values()) > 0
    for name, parameter in tuned.model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:
            torch.nn.init.normal_(parameter, std=0.05)
    changed = log_probabilities(tuned, pictures)
    save_adapter(tuned, tmp_path / "adapter", tiny(tmp_path), {})
    loaded = load_adapter(load_mllm(RankerArgs(model=str(folder))), tmp_path / "adapter")
    torch.testing.assert_close(log_probabilities(loaded, pictures), changed, rtol=1e-5, atol=1e-5)
    merged = loaded.wrap(loaded.model.merge_and_unload())
    torch.testing.assert_close(log_probabilities(merged, pictures), changed, rtol=1e-4, atol=1e-4)


@pytest.fixture
def vipllava(tmp_path: Path) -> Path:
    """A tiny VipLLaVA."""
    return save_tiny("vipllava", tmp_path / "vipllava")


def test_a_failed_check_of_tokens_is_named(vipllava):
    template = vipllava / "chat_template.jinja"
    template.write_text(template.read_text().replace("ASSISTANT:{% endif %}", "ASSISTANT, {% endif %}"))
    with pytest.raises(UserError, match=r"family vipllava is not in the table .* a prompt is a prefix of its conv"):
        load_mllm(RankerArgs(model=str(vipllava)))


def test_a_failed_check_of_padding_is_named(vipllava, monkeypatch):
    from transformers import VipLlavaForConditionalGeneration as Model

    forward = Model.forward
    monkeypatch.setattr(
        Model, "forward", lambda self, attention_mask=None, **inputs: forward(self, **inputs), raising=True
    )
    with pytest.raises(UserError, match=r"the check that padding changes nothing failed \(logits differ by"):
        load_mllm(RankerArgs(model=str(vipllava)))


def test_scores_that_are_not_the_models_own_are_refused(vipllava, pictures, monkeypatch):
    from transformers import VipLlavaForConditionalGeneration as Model

    forward = Model.forward

    def halve(self, **inputs):
        output = forward(self, **inputs)
        output.logits = output.logits / 2
        return output

    monkeypatch.setattr(Model, "forward", halve)
    mllm = load_mllm(RankerArgs(model=str(vipllava)))
    with pytest.raises(UserError, match=r"its scores differ by 1 from those of its own forward pass"):
        in_one_pass(mllm, pictures[:2], ASKED)


@pytest.mark.parametrize("kind", ["bert", "florence2"])
def test_a_model_of_another_kind_is_refused(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UserError, match=rf"ranker\.model={re.escape(str(tmp_path))}"):
        load_mllm(RankerArgs(model=str(tmp_path)))
