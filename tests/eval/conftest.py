"""Fixtures: the shipped nano-mllm, a few requests for rendered shields, one small finished run, and a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.armory.blazon import draw_classes
from data_prep.armory.render import render
from data_prep.settings import RankerArgs, Recipe
from eval.ranking.request import RankingRequest
from rar_train.models.loading import load_mllm
from rar_train.models.mllm import Mllm
from rar_train.ranker.train import train_ranker
from tests.tiny_recipes import tiny_recipes


@pytest.fixture(scope="session")
def nano() -> Mllm:
    """The shipped nano-mllm; tests must not modify it."""
    return load_mllm(RankerArgs())


@pytest.fixture(scope="session")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[RankingRequest]:
    """Five requests of 2 to 5 names each."""
    folder = tmp_path_factory.mktemp("shields")
    blazons = draw_classes("test", 8, 4, 0)
    names = [blazon.name for blazon in blazons]
    requests = []
    for index, count in enumerate((5, 2, 4, 3, 5)):
        path = folder / f"{index}.png"
        render(blazons[index], 96, np.random.default_rng(index)).save(path)
        shown = tuple(names[(index + i) % 8] for i in range(count))
        requests.append(RankingRequest(f"shield-{index}", str(path), shown))
    return requests


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[RankingRequest]:
    """Sixteen requests of 2 to 6 names, each with near-duplicates."""
    folder = tmp_path_factory.mktemp("many")
    blazons = draw_classes("test", 24, 4, 0)
    requests = []
    for index in range(16):
        path = folder / f"{index}.png"
        render(blazons[index], 96, np.random.default_rng(index)).save(path)
        names = [blazon.name for blazon in blazons[index : index + 2 + index % 5]]
        requests.append(RankingRequest(f"shield-{index}", str(path), tuple(names)))
    return requests


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """Makes recipes of one training step on a small armory; all share a cache."""
    cache = tmp_path_factory.mktemp("tiny") / "cache"
    settings = (
        "ranker.lora.scope=language+projector optim.max_steps=1 optim.lr=0.05 trainer.checkpoint_every=1 "
        "trainer.val_examples=4 eval.shots=[1,2] eval.seeds=[1,2] eval.bootstrap=50 eval.ranker_only_images=3 eval.k=4 "
        "eval.fusion=false eval.candidates=fused eval.permutations=1 eval.adapters=[]"
    )
    return tiny_recipes(cache, settings)


@pytest.fixture(scope="session")
def finished(tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests that evaluate it work on a copy."""
    return train_ranker(tiny(tmp_path_factory.mktemp("runs") / "finished"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory):
    """Headless Chromium; skips where it is not installed."""
    from tests.eval.browsing import IS_INSTALLED, chromium

    if not IS_INSTALLED:
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver
