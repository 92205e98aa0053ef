"""Scoring of a batch of prefix trees, differentiable for training: one forward pass for all conversations.

A node's attention mask shows it its ancestors alone, and its position is its depth, so that every conversation has the
scores of a pass of its own. Where a model's layers can't take such a mask, the conversations about an image run one by
one, in training from the beginning, and without gradients after a pass over what they share. The first batch compares
the ways, and the log says which one is used.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, distributed, nn

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import NAMING, letters_prompt
from rar_train.families.auto import missing_part
from rar_train.models.forest import Conversation, Forest
from rar_train.models.head import letter_logits, token_log_probs
from rar_train.models.inputs import pad_rows, to_device
from rar_train.models.mllm import Mllm
from rar_train.models.planting import plant
from rar_train.models.prefix import read_states_after_prefix

log = logging.getLogger(__name__)

_MASKED_ATTENTION = ("eager", "sdpa")  # implementations that take a mask for each pair of tokens
_MASKED_LAYERS = {"full_attention", "sliding_attention"}  # others pass a state along the row

# What the passes are compared on.
_IMAGE = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
_ASKED = [Conversation(NAMING, "A"), Conversation(letters_prompt(["A", "B"])), Conversation(NAMING, "B")]

_takes_trees: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_continues: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class TreeScores:
    """Scores of a batch's conversations, in float32.

    Attributes:
        letters: Logits of the tokens to read after each conversation without an answer, shape ``[p, tokens]``.
        states: Hidden states after these conversations, shape ``[p, width]``.
        answers: Log-likelihood of each answer, shape ``[a]``.
        lengths: Number of tokens of each answer, shape ``[a]``.
    """

    letters: Tensor
    states: Tensor
    answers: Tensor
    lengths: Tensor


def score(mllm: Mllm, forest: Forest, letters: Sequence[int] = ()) -> TreeScores:
    """Scores the conversations of a batch.

    Args:
        mllm: The ranker.
        forest: The batch, on any device.
        letters: Ids of the tokens to read, such as the letters.
    """
    forest = _to_model(mllm, forest)
    if takes_trees(mllm):
        states = read_states(mllm, forest)
    elif not torch.is_grad_enabled() and continues_prefix(mllm):
        states = read_states_after_prefix(mllm, forest, _passes(mllm, _most_conversations(forest)))
    else:
        states = read_states_one_by_one(mllm, forest)
    answers = _score_answers(mllm, forest, states)
    after = states[forest.letter_reads]
    return TreeScores(letter_logits(mllm, after, letters), after, answers, forest.answer_lengths)


def _score_answers(mllm: Mllm, forest: Forest, states: Tensor) -> Tensor:
    """Computes the log-likelihood of each answer, in float32; without answers the head is not read for them."""
    count, tokens = len(forest.answer_lengths), len(forest.token_targets)
    if not count:  # on all processes alike, since their batches have the same objectives
        return torch.zeros(0, device=states.device)
    values = token_log_probs(mllm, states[: forest.answer_reads], forest.token_reads, forest.token_targets)
    owners = torch.arange(count, device=values.device).repeat_interleave(forest.answer_lengths, output_size=tokens)
    return values.new_zeros(count).index_add(0, owners, values)


def _to_model(mllm: Mllm, forest: Forest) -> Forest:
    parameter = next(mllm.model.parameters())
    return forest.to(parameter.device, parameter.dtype)


def pair_scores(mllm: Mllm, logits: Tensor, states: Tensor) -> Tensor:
    """Computes the scores of pairs: the log-odds of two tokens, or what a reranker's own head gives.

    Args:
        mllm: The ranker.
        logits: Of the tokens of ``Mllm.yes_no_ids``, shape ``[p, 2]``, ``[p, 1]`` where one alone is the score, or
            ``[p, 0]`` with a head.
        states: Hidden states after the prompts, shape ``[p, width]``.

    Returns:
        Tensor: Shape ``[p]``.
    """
    if mllm.reranker is not None and mllm.reranker.head is not None:
        return mllm.reranker.head(states)
    return logits[:, 0] - logits[:, 1] if logits.shape[1] > 1 else logits[:, 0]


def split_by_row(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """Splits a flat list of candidates' scores into rows: ``[n, max(counts)]``, padded with ``-inf``."""
    return nn.utils.rnn.pad_sequence(list(scores.split(list(counts))), batch_first=True, padding_value=float("-inf"))


def read_states(mllm: Mllm, forest: Forest) -> Tensor:
    """Computes the hidden states to read, ``[r, width]``, in one pass."""
    states = mllm.base.base_model(
        input_ids=forest.ids,
        attention_mask=_attention_masks(mllm, forest),
        position_ids=forest.positions,
        **forest.types,
        use_cache=False,
        **forest.pixels,
    ).last_hidden_state
    return states[forest.reads[:, 0], forest.reads[:, 1]]


def _attention_masks(mllm: Mllm, forest: Forest) -> Tensor | dict[str, Tensor]:
    """Returns the mask of all layers, or by kind of layer where the kinds see different parts of these trees."""
    settings = mllm.base.config.get_text_config().to_dict()
    window = settings.get("sliding_window")
    window = window if window is not None and forest.longest > window else None
    kinds = set(settings.get("layer_types") or ())
    if not kinds:
        return _as_bias(mllm, forest.mask(window))
    full = forest.mask(blocks=mllm.bidirectional != "sliding")
    if kinds == {"full_attention"} or (window is None and mllm.bidirectional != "sliding"):
        return _as_bias(mllm, full)
    near = forest.mask(window)
    return {"full_attention": _as_bias(mllm, full), "sliding_attention": _as_bias(mllm, near)}


def _as_bias(mllm: Mllm, mask: Tensor) -> Tensor:
    """Returns a mask as numbers that are added to the attention scores."""
    dtype = mllm.base.get_input_embeddings().weight.dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def read_states_one_by_one(mllm: Mllm, forest: Forest) -> Tensor:
    """Computes the hidden states to read, ``[r, width]``, in a pass for each conversation about an image."""
    by_row: list[list[list[int]]] = [[] for _ in forest.lengths]
    for path in forest.paths:
        by_row[path.row].append([*range(forest.heads[path.row]), *path.nodes])
    place = {tuple(read): index for index, read in enumerate(forest.reads.tolist())}
    passes, order = [], []
    for number in range(_passes(mllm, _most_conversations(forest))):
        # A row with fewer conversations repeats its last.
        nodes = [row[min(number, len(row) - 1)] for row in by_row]
        found = [
            (row, column, place.pop((row, node)))
            for row, path in enumerate(nodes)
            for column, node in enumerate(path)
            if (row, node) in place
        ]
        states = _run_paths(mllm, forest, nodes)
        rows, columns, indices = (list(part) for part in zip(*found, strict=True)) if found else ([], [], [])
        passes.append(states[rows, columns])
        order += indices
    return torch.cat(passes)[torch.tensor(order).argsort().to(forest.ids.device)]


def _most_conversations(forest: Forest) -> int:
    """Counts the conversations of the row that has most."""
    return max(Counter(path.row for path in forest.paths).values())


def _passes(mllm: Mllm, count: int) -> int:
    """Returns the number of passes to run; under ZeRO-3, which needs all processes in each, the largest of any."""
    if not (hasattr(next(mllm.model.parameters()), "ds_id") and distributed.is_initialized()):
        return count
    most = torch.tensor(count, device=mllm.device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)


def _run_paths(mllm: Mllm, forest: Forest, nodes: Sequence[Sequence[int]]) -> Tensor:
    """Runs one conversation of each row, padded on the right; returns hidden states ``[n, longest, width]``."""
    columns = pad_rows(nodes, 0).to(forest.ids.device)
    rows = torch.arange(len(nodes), device=columns.device)[:, None]
    lengths = torch.tensor([len(row) for row in nodes], device=columns.device)
    real = torch.arange(columns.shape[1], device=columns.device) < lengths[:, None]
    ids = forest.ids[rows, columns].masked_fill(~real, mllm.processor.tokenizer.pad_token_id)
    return mllm.base.base_model(
        input_ids=ids,
        attention_mask=real.long(),
        position_ids=forest.positions[..., rows, columns],
        use_cache=False,
        **{name: value[rows, columns] for name, value in forest.types.items()},
        **forest.pixels,
    ).last_hidden_state


def has_masked_attention(mllm: Mllm) -> bool:
    """Whether a mask for each pair of tokens decides what a token sees in all layers; else a model takes no trees."""
    return not _unmasked(mllm)


def _unmasked(mllm: Mllm) -> str:
    """Names what takes no mask for each pair of tokens: the attention's implementation, or a kind of layer."""
    config = mllm.base.config.get_text_config()
    if config._attn_implementation not in _MASKED_ATTENTION:
        return f"attention {config._attn_implementation} takes"
    others = set(config.to_dict().get("layer_types") or ()) - _MASKED_LAYERS
    return f"layers of {min(others).replace('_', ' ')} take" if others else ""


def takes_trees(mllm: Mllm) -> bool:
    """Whether a model gives the same hidden states in one pass; the first call for a model compares and logs it.

    Under DeepSpeed all processes must make that call together.
    """
    if mllm.base not in _takes_trees:
        _takes_trees[mllm.base] = _compare_passes(mllm)
    return _takes_trees[mllm.base]


def continues_prefix(mllm: Mllm) -> bool:
    """Whether a model gives the same hidden states after a pass over what conversations share.

    The first call for a model compares and logs it. Under DeepSpeed all processes must make that call together.
    """
    if mllm.base not in _continues:
        _continues[mllm.base] = bool(_unmasked(mllm)) and _compare_prefix(mllm)
    return _continues[mllm.base]


def _compare_prefix(mllm: Mllm) -> bool:
    forest = _to_model(mllm, plant(mllm, [_IMAGE, _IMAGE.resize((48, 96))], [_ASKED, _ASKED[:2]]))
    with _inference(mllm.model, mllm.device):
        after = read_states_after_prefix(mllm, forest, _passes(mllm, len(_ASKED))).float()
        alone = read_states_one_by_one(mllm, forest).float()
    difference = ((after - alone).norm() / alone.norm()).item()
    same = difference <= mllm.tolerance
    found = "gives the same as" if same else f"differs by {difference:.2g} from"
    log.info("%s: a pass after what conversations about an image share %s a whole pass for each", mllm.id, found)
    return same


def _compare_passes(mllm: Mllm) -> bool:
    if mllm.family.found:
        _check_scores(mllm)
    if unmasked := _unmasked(mllm):
        log.info("%s: %s no tree masks; conversations run one by one", mllm.id, unmasked)
        return False
    forest = plant(mllm, [_IMAGE], [_ASKED])
    _check_tokens(mllm, forest, _IMAGE, _ASKED)
    forest = _to_model(mllm, forest)
    with _inference(mllm.model, mllm.device):
        together, alone = read_states(mllm, forest).float(), read_states_one_by_one(mllm, forest).float()
    difference = ((together - alone).norm() / alone.norm()).item()
    if difference <= mllm.tolerance:
        log.info("%s: one pass for all conversations about an image", mllm.id)
        return True
    log.warning(
        "%s: one pass for all conversations about an image differs from a pass for each by %.2g; they run one by one",
        mllm.id, difference,
    )  # fmt: skip
    return False


def _check_scores(mllm: Mllm) -> None:
    """Checks that the scores of a family outside the table are those that the model's own forward pass gives.

    Raises:
        UserError: They differ.
    """
    letters, prompts = mllm.letter_ids(2), [NAMING, letters_prompt(["A", "B"])]
    forest = _to_model(mllm, plant(mllm, [_IMAGE], [[Conversation(prompt) for prompt in prompts]]))
    with _inference(mllm.model, mllm.device):
        states = read_states_one_by_one(mllm, forest)
        scores = letter_logits(mllm, states[forest.letter_reads], letters)
        inputs = [to_device(mllm.inputs([_IMAGE], [prompt]), states) for prompt in prompts]
        own = torch.cat([mllm.model(**each).logits[:, -1, letters].float() for each in inputs])
    difference = ((scores - own).norm() / own.norm()).item()
    if difference > mllm.tolerance:
        raise missing_part(
            mllm.id, mllm.config.model_type, f"its scores differ by {difference:.2g} from those of its own forward pass"
        )


def _check_tokens(mllm: Mllm, forest: Forest, image: Image.Image, asked: Sequence[Conversation]) -> None:
    """Checks that the trees have the tokens that the processor gives each conversation.

    Raises:
        UserError: They differ.
    """
    for path, conversation in zip(forest.paths, asked, strict=True):
        nodes = [*range(forest.heads[path.row]), *path.nodes]
        expected = mllm.inputs([image], [conversation.prompt])["input_ids"][0].tolist() + list(path.answer[:-1])
        if forest.ids[path.row, nodes].tolist() != expected:
            raise UserError(f"{mllm.id}: its processor tokenises a prompt differently with an image than without it")


@contextmanager
def _inference(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Puts a model into eval mode, without gradients and autocast, and restores each module's mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
