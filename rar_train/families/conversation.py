"""A question about images and its answer in a model's chat template."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import ProcessorMixin

# Placeholder answer, rendered to see what a template puts around an answer; no template trims or splits it.
_ANSWER = "THE-ANSWER-STANDS-HERE"


@dataclass(frozen=True)
class AnswerFrame:
    """What a chat template writes around an answer.

    Attributes:
        thoughts: Text between the generation prompt and the answer that is the same for every answer, such as empty
            thoughts of a model that can think. It belongs to the prompt.
        space: Spaces before the answer, which tokenizers merge with its first token.
        end: The control token that ends the turn; None where the template writes none.
        consistent: Whether the generation prompt begins the assistant's turn of a conversation.
    """

    thoughts: str = ""
    space: str = ""
    end: str | None = None
    consistent: bool = True


def render_prompt(processor: ProcessorMixin, prompt: str, images: int) -> str:
    """Renders a user's turn about images, with the generation prompt; a model that can think is told not to."""
    return _render(processor, [_user(prompt, images)], add_generation_prompt=True)


def find_frame(processor: ProcessorMixin, control: set[str]) -> AnswerFrame:
    """Finds what the chat template writes around an answer.

    Templates differ in what they write after an answer (nothing, white space, a misspelt token); a model should learn
    only the answer and the turn's end.

    Args:
        processor: A processor with a chat template.
        control: The control tokens.
    """
    answer = {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}]}
    before, found, after = _render(processor, [_user("", 1), answer]).rpartition(_ANSWER)
    if not found:  # a template of a single turn
        return AnswerFrame()
    ends = [token for token in control if after.lstrip().startswith(token)]
    end = max(ends, key=len, default=None)
    prompt = render_prompt(processor, "", 1)
    if prompt.startswith(before):  # the generation prompt says more, such as that the model doesn't think
        return AnswerFrame(end=end)
    if not before.startswith(prompt):
        return AnswerFrame(end=end, consistent=False)
    between = before[len(prompt) :]
    thoughts = between.rstrip(" ") if between.strip(" ") else ""
    return AnswerFrame(thoughts, between[len(thoughts) :], end)


def _render(processor: ProcessorMixin, messages: list[dict], **kwargs: bool) -> str:
    if "enable_thinking" in str(processor.chat_template):  # transformers warns of settings that a template ignores
        kwargs["enable_thinking"] = False
    return processor.apply_chat_template(messages, tokenize=False, **kwargs)


def _user(prompt: str, images: int) -> dict:
    content = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
    return {"role": "user", "content": content}
