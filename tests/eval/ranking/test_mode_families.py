"""Every ranking mode with every MLLM family, on a tiny model of its real architecture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.settings import MODES, RankerArgs
from eval.ranking.modes import run_batch
from eval.ranking.parsing import to_ranking
from eval.ranking.request import RankingMode, RankingRequest
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm
from tests.rar_train.tiny_families import TINY, save_tiny
from tests.rar_train.tiny_recent import TINY_RECENT

KINDS = [
    pytest.param(kind, marks=pytest.mark.slow) if kind in TINY_RECENT.keys() - {"qwen3_5"} else kind for kind in TINY
]


@pytest.fixture(scope="module", params=KINDS)
def mllm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mllm:
    """Each family's tiny model in turn."""
    return load_mllm(RankerArgs(model=str(save_tiny(request.param, tmp_path_factory.mktemp("families") / "model"))))


@pytest.fixture(scope="module")
def requests() -> list[RankingRequest]:
    """Images of two shapes, with two and three names."""
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((64, 64), (60, 96))]
    return [
        RankingRequest("a", images[0], ("cat", "dog's")),
        RankingRequest("b", images[1], ("cat", "dog's", "elk, red")),
    ]


def check_tokens(mllm: Mllm, mode: str) -> None:
    """Skips yes_no where a tiny tokenizer splits a space off, which its real one does not."""
    if mode == "yes_no":
        try:
            mllm.yes_no_ids()
        except UserError as error:
            pytest.skip(str(error))


def test_every_family_generates_the_same_names_alone_and_in_a_batch(mllm, requests):
    name_mode = RankingMode("name", reply_tokens=6, prompt="What does the picture show?")
    together = run_batch(mllm, name_mode, requests)
    assert together == [response for request in requests for response in run_batch(mllm, name_mode, [request])]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_ranks_the_same_alone_and_in_a_batch_with_every_family(mllm, requests, mode):
    check_tokens(mllm, mode)
    ranking_mode = RankingMode(mode, reply_tokens=12)
    together = run_batch(mllm, ranking_mode, requests)
    for request, response in zip(requests, together, strict=True):
        ranking = to_ranking(mode, request.names, request, response)
        assert sorted(ranking.order) == list(range(len(request.names)))
        assert ranking.outcome == "ok" or mode == "generate"
        (alone,) = run_batch(mllm, ranking_mode, [request])
        assert to_ranking(mode, request.names, request, alone).order == ranking.order


@pytest.mark.parametrize("mode", MODES)
def test_names_that_hold_control_tokens_are_ranked_as_text(mllm, requests, mode):
    check_tokens(mllm, mode)
    tokens = (mllm.processor.image_token, mllm.turn_end)
    request = RankingRequest("c", requests[0].image, (*(f"{token} button" for token in tokens), "elk, red"))
    (response,) = run_batch(mllm, RankingMode(mode, reply_tokens=12), [request])
    ranking = to_ranking(mode, request.names, request, response)
    assert sorted(ranking.order) == [0, 1, 2]
    assert ranking.outcome == "ok" or mode == "generate"
