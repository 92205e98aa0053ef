"""A run's ranker on a server: in programs, and evaluated by the command as the local one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data_prep.settings import RankerArgs
from eval import Ranker
from eval.report.predictions import read_predictions
from rar_train.engine.run_folder import find_adapter
from rar_train.models.loading import load_mllm
from rar_train.models.lora import load_adapter
from tests.serving import Nano, serve


@pytest.fixture(scope="module")
def hosted(nano, finished) -> Nano:
    return Nano({"nano-mllm": nano, "mine": load_adapter(load_mllm(RankerArgs()), find_adapter(finished)[0])})


def settings_of(url: str) -> list[str]:
    settings = ["ranker.mode=letters", "ranker.backend=openai", f"ranker.server.base_url={url}"]
    return [*settings, "ranker.server.served_adapter=mine", "ranker.server.parity_images=2"]


def test_a_ranker_on_a_server_ranks_as_the_local_one_and_is_checked_once(finished, hosted, requests):
    images, names = [r.image for r in requests], [r.names for r in requests]
    local = Ranker.from_pretrained(finished, "ranker.mode=letters").rank(images, names)
    with serve(hosted) as url:
        ranker = Ranker.from_pretrained(finished, *settings_of(url))
        ranked = ranker.rank(images, names)
        assert len(hosted.bodies) == 2 * 2 + len(requests)
        assert ranker.rank(images, names) == ranked
        assert len(hosted.bodies) == 2 * 2 + 2 * len(requests)
    assert [r.order for r in ranked] == [r.order for r in local]


@pytest.mark.slow
def test_an_evaluation_by_a_server_has_the_local_rankings(finished, hosted, run_here, tmp_path: Path):
    run = shutil.copytree(finished, tmp_path / "run")
    common = ["tracking.wandb=disabled"]
    run_here("eval.run", "--ckpt", str(run), "ranker.mode=letters", *common)
    with serve(hosted) as url:
        run_here("eval.run", "--ckpt", str(run), *settings_of(url), *common)
    local, served = (list(read_predictions(run / "eval" / name)) for name in ("test-letters", "test-letters-server"))
    pairs = [pair for pair in zip(local, served, strict=True) if pair[1].get("outcome") == "ok"]
    assert len(pairs) > len(local) / 4
    assert all(one["ranking"] == other["ranking"] for one, other in pairs)
