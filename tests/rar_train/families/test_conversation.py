"""What chat templates write around an answer, in particular those of models that can think."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.settings import RankerArgs
from rar_train.families.conversation import AnswerFrame, find_frame, render_prompt
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm
from rar_train.models.plain_text import control_tokens
from tests.rar_train.tiny_families import save_tiny

_TURN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] if part['type'] == 'image' %}<|image_pad|>{% endfor %}"
    "THOUGHTS{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\nSTART{% endif %}"
)


def template(thoughts: str, start: str) -> str:
    """Makes a template with text before every answer, and after the generation prompt."""
    text = "{% if message['role'] == 'assistant' %}" + thoughts + "{% endif %}"
    return _TURN.replace("THOUGHTS", text).replace("START", start)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Mllm:
    """A tiny Qwen3-VL."""
    folder: Path = save_tiny("qwen3_vl", tmp_path_factory.mktemp("conversation") / "qwen3_vl")
    return load_mllm(RankerArgs(model=str(folder)))


SWITCH = "{% if enable_thinking is defined and not enable_thinking %}[NO]{% else %}[YES]{% endif %}"


@pytest.mark.parametrize(
    ("thoughts", "start", "frame"),
    [
        ("", "", AnswerFrame(end="<|im_end|>")),
        (" ", "", AnswerFrame(space=" ", end="<|im_end|>")),
        # Qwen3.5: the generation prompt begins thoughts, which are empty before an answer.
        ("[T]{{ '\n\n' }}[/T]{{ '\n\n' }}", "[T]{{ '\n' }}", AnswerFrame("\n[/T]\n\n", end="<|im_end|>")),
        # GLM-4.5V: the generation prompt has the empty thoughts already, and a line before the answer.
        ("[T][/T]{{ '\n' }}", "[T][/T]", AnswerFrame("\n", end="<|im_end|>")),
        # Gemma 4: only the generation prompt has empty thoughts.
        ("", "[T][/T]", AnswerFrame(end="<|im_end|>")),
        (SWITCH, "[NO]", AnswerFrame(end="<|im_end|>")),
        ("[A]", "[B]", AnswerFrame(end="<|im_end|>", consistent=False)),
    ],
)
def test_what_stands_before_every_answer_belongs_to_the_prompt(qwen, thoughts, start, frame):
    mllm = qwen.wrap(qwen.model)
    mllm.processor.chat_template = template(thoughts, start)
    assert find_frame(mllm.processor, control_tokens(mllm.processor)) == frame
    if frame.consistent:
        prompt = render_prompt(mllm.processor, "Which?", 1) + frame.thoughts
        assert mllm.render("Which?", "B") == f"{prompt}{frame.space}B<|im_end|>"
        assert mllm.processor.tokenizer.decode(mllm.answer_ids("Which?", "B")).strip() == "B<|im_end|>"
        assert len(mllm.letter_ids(26)) == 26


def test_a_template_of_a_single_turn_has_no_frame(qwen):
    mllm = qwen.wrap(qwen.model)
    mllm.processor.chat_template = "<|image_pad|>{{ messages[0]['content'][1]['text'] }}"
    assert find_frame(mllm.processor, control_tokens(mllm.processor)) == AnswerFrame()
