"""Parity check of a server: it must be the local model, with its chat template, its adapter and its images.

Server and local model rank the same few requests by letters, whatever the mode of the run, since probabilities show
small differences that a written list hides. Some have a pattern in place of their image, in which a resize shows. The
same requests without images, and the base model's answers, tell what a difference comes from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.distributed.devices import resolve_accelerator
from data_prep.settings import RankerArgs, TrainerArgs
from eval.ranking.modes import run_batch
from eval.ranking.probes import Probes, choose_probes
from eval.ranking.prompt import build_prompt
from eval.ranking.request import RankingMode, RankingRequest, Response
from eval.ranking.server import Server, run_async
from eval.ranking.server_messages import Messages
from rar_train.models.loading import load_mllm
from rar_train.models.lora import load_adapter
from rar_train.models.mllm import Mllm

log = logging.getLogger(__name__)

_LETTERS_MODE = RankingMode("letters")
_BATCH_SIZE = 4

PASSED: set[tuple[str, str, bool]] = set()
"""Checks that passed in this process: settings, the adapter's hash, and whether it was the tuned model."""


@dataclass(frozen=True)
class Scores:
    """Letter scores of the same probes by one model.

    Attributes:
        seen: A response per probe.
        blind: The same without the images.
    """

    seen: Sequence[Response]
    blind: Sequence[Response]


def _local_scores(ranker: RankerArgs, adapter: Path, trainer: TrainerArgs, probes: Probes) -> dict[bool, Scores]:
    """Scores the probes with the local base model (False) and the tuned one (True); their memory is free afterwards."""
    try:
        mllm = load_mllm(ranker)
    except UserError as error:
        raise UserError(
            f"{error} It is compared with the server; ranker.server.parity_images=0 leaves that out."
        ) from None
    device = resolve_accelerator(trainer)
    mllm.model.to(device)
    base = _score(mllm, probes.requests)
    tuned = load_adapter(mllm, adapter)
    tuned.model.to(device)
    return {False: base, True: _score(tuned, probes.requests)}


def _score(mllm: Mllm, requests: Sequence[RankingRequest]) -> Scores:
    batches = [requests[start : start + _BATCH_SIZE] for start in range(0, len(requests), _BATCH_SIZE)]
    seen = [response for batch in batches for response in run_batch(mllm, _LETTERS_MODE, batch)]
    return Scores(seen, [_score_blind(mllm, request) for request in requests])


@torch.inference_mode()
def _score_blind(mllm: Mllm, probe: RankingRequest) -> Response:
    """Scores a probe without its images."""
    text, tokenizer = mllm.render(build_prompt(_LETTERS_MODE, probe), images=0), mllm.processor.tokenizer
    has_start = text.startswith(tokenizer.bos_token or "\0")
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=not has_start).to(mllm.device)
    logits = mllm.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits[0, -1].float()
    scores = logits[mllm.letter_ids(len(probe.names))].tolist()
    return Response(tuple(scores[probe.shown.index(index)] for index in range(len(probe.names))))


def difference(expected: Sequence[Response], actual: Sequence[Response]) -> float:
    """Returns the mean absolute difference of the letters' centred log-probabilities, in nats.

    Letters that a server did not return are left out, and so are responses with fewer than two; infinite where those
    are more than half.
    """
    means = []
    for one, other in zip(expected, actual, strict=True):
        floor = min(other.scores) if other.reply else -math.inf
        gaps = [a - b for a, b in zip(one.scores, other.scores, strict=True) if b > floor]
        if len(gaps) > 1:
            centre = sum(gaps) / len(gaps)
            means.append(sum(abs(gap - centre) for gap in gaps) / len(gaps))
    return sum(means) / len(means) if 2 * len(means) > len(expected) else math.inf


def ensure_parity(
    server: Server,
    models: Sequence[Messages],
    requests: Sequence[RankingRequest],
    ranker: RankerArgs,
    adapter: Path,
    trainer: TrainerArgs,
) -> None:
    """Checks all models of a server that this process has not checked yet: each must answer as the local one.

    Args:
        server: Their server.
        models: The base model, the tuned one or both, each in any number of modes.
        requests: What is to be ranked, at least one.
        ranker: The base model.
        adapter: The tuned model's adapter.
        trainer: The device of the local model.

    Raises:
        UserError: One does not, and the message says what is likely wrong; or there is no local model.
    """
    count = ranker.server.parity_images
    settings = repr(replace(ranker, mode="letters", descriptions=False)), file_hash(adapter / "manifest.json")
    unchecked = {(*settings, messages.tuned): messages for messages in models}
    unchecked = {key: messages for key, messages in unchecked.items() if key not in PASSED}
    if not unchecked or not count:
        return
    probes = choose_probes(requests, count, ranker.server.image_format)
    local = _local_scores(ranker, adapter, trainer, probes)

    async def check_all() -> None:
        async with server:
            for messages in unchecked.values():
                await _check_parity(server, messages, probes, local)

    run_async(check_all())
    PASSED.update(unchecked)


async def _check_parity(server: Server, messages: Messages, probes: Probes, local: dict[bool, Scores]) -> None:
    """Raises an error that says what is likely wrong, unless a model on the open server answers as the local one."""
    check, tuned = _Check(server, replace(messages, mode=_LETTERS_MODE), probes, local), messages.tuned
    tolerance, seen = server.args.parity_tolerance, await check.ask(with_images=True)
    distance = check.distance(local[tuned].seen, seen)
    log.info(
        "%s: server and local model differ by %.3f nats on %d images (the same up to %g)",
        messages.model, distance, probes.count, tolerance,
    )  # fmt: skip
    if distance > tolerance:
        raise UserError(
            f"ranker.server: {messages.model} is not the local {'tuned' if tuned else 'base'} model: log-probabilities "
            f"of the letters differ by {distance:.2f} nats on {probes.count} images "
            f"(ranker.server.parity_tolerance={tolerance:g}). {await check.explain(seen)}"
        )
    if check.distance(local[True].seen, local[False].seen) <= tolerance:
        log.warning("%s: base and tuned model answer alike, so a missing adapter would not show", messages.model)


@dataclass(frozen=True)
class _Check:
    """The comparison of one model on the open server with the local scores of the base and the tuned model."""

    server: Server
    messages: Messages
    probes: Probes
    local: dict[bool, Scores]

    async def ask(self, with_images: bool) -> list[Response]:
        """Returns the server's response to each probe."""
        bodies = ((probe, self.messages.body(probe, with_images)) for probe in self.probes.requests)
        return [
            await self.server.complete(self.messages.tuned, body, partial(self.messages.read, probe))
            for probe, body in bodies
        ]

    def distance(self, expected: Sequence[Response], actual: Sequence[Response]) -> float:
        """Returns the difference on the images or on the patterns, whichever is larger.

        Patterns on which the server gives no letters are no sign of anything.
        """
        count = self.probes.count
        on_patterns = difference(expected[count:], actual[count:])
        return max(difference(expected[:count], actual[:count]), 0.0 if math.isinf(on_patterns) else on_patterns)

    async def explain(self, seen: Sequence[Response]) -> str:
        """Says what is likely wrong with a server of these responses, and what to do."""
        tolerance, local, tuned = self.server.args.parity_tolerance, self.local, self.messages.tuned
        if self.distance(local[not tuned].seen, seen) <= tolerance:
            if tuned:
                return (
                    "Likely the adapter is missing: these are the base model's answers. Load the adapter on the "
                    "server, or serve the merged model, and give its name as ranker.server.served_adapter."
                )
            return "Likely ranker.server.served_model has the adapter already: these are the tuned model's answers."
        blind = difference(local[tuned].blind, await self.ask(with_images=False))
        if blind > tolerance:
            return (
                f"Likely another chat template, or other weights: without the images they differ too, by {blind:.2f}. "
                "Serve ranker.model itself with its own chat template, and without thinking before the answer."
            )
        return (
            f"Likely the images arrive changed: without them the answers agree, within {blind:.2f}. Serve the model "
            "with its own image processor and no other limit of pixels than ranker.max_pixels, and an adapter of the "
            "vision tower merged (docs/serving.md)."
        )
