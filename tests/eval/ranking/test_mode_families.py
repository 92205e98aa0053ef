"""Every way to ask, for every family of MLLM, on its real architecture in small."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data_prep.settings import MODES, RankerArgs
from eval.ranking.modes import run_batch
from eval.ranking.parsing import to_ranking
from eval.ranking.request import RankingMode, RankingRequest
from rar_train.models.mllm import Mllm, load_mllm
from tests.rar_train.tiny_families import TINY, save_tiny


@pytest.fixture(scope="module", params=list(TINY))
def mllm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mllm:
    """Each family's tiny model in turn."""
    return load_mllm(RankerArgs(model=str(save_tiny(request.param, tmp_path_factory.mktemp("families") / "model"))))


@pytest.fixture(scope="module")
def questions() -> list[RankingRequest]:
    """Pictures of two shapes, with two and three names."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((64, 64), (60, 96))]
    return [
        RankingRequest("a", pictures[0], ("cat", "dog's")),
        RankingRequest("b", pictures[1], ("cat", "dog's", "elk, red")),
    ]


def test_every_family_is_asked_for_names_alike_alone_and_in_a_batch(mllm, questions):
    manner = RankingMode("name", reply_tokens=6, prompt="What does the picture show?")
    together = run_batch(mllm, manner, questions)
    assert together == [answer for question in questions for answer in run_batch(mllm, manner, [question])]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_ranks_with_every_family_alike_alone_and_in_a_batch(mllm, questions, mode):
    manner = RankingMode(mode, reply_tokens=12)
    together = run_batch(mllm, manner, questions)
    for question, answer in zip(questions, together, strict=True):
        ranking = to_ranking(mode, question.names, question, answer)
        assert sorted(ranking.order) == list(range(len(question.names)))
        assert ranking.outcome == "ok" or mode == "generate"
        (alone,) = run_batch(mllm, manner, [question])
        assert to_ranking(mode, question.names, question, alone).order == ranking.order


@pytest.mark.parametrize("mode", MODES)
def test_names_that_hold_control_tokens_are_ranked_as_text(mllm, questions, mode):
    tokens = (mllm.processor.image_token, mllm.turn_end)
    question = RankingRequest("c", questions[0].image, (*(f"{token} button" for token in tokens), "elk, red"))
    (answer,) = run_batch(mllm, RankingMode(mode, reply_tokens=12), [question])
    ranking = to_ranking(mode, question.names, question, answer)
    assert sorted(ranking.order) == [0, 1, 2]
    assert ranking.outcome == "ok" or mode == "generate"
