"""A ranker behind a server: rankings as the local ones, failures retried and counted, answers never requested twice."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_prep.core.errors import Interrupted, UserError
from data_prep.settings import RankerArgs, ServerArgs, TrainerArgs
from data_prep.settings.loading import load_recipe
from eval.ranking import parity, server
from eval.ranking.batches import InferenceJob, RequestTable
from eval.ranking.modes import run_batch
from eval.ranking.parsing import to_ranking
from eval.ranking.request import RankingMode
from eval.ranking.served import ServedModel
from eval.ranking.server_jobs import answer_all_by_server
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora, load_adapter, save_adapter
from rar_train.models.mllm import Mllm
from tests.serving import Nano, pause, serve

CPU = TrainerArgs(accelerator="cpu")
TEXT_MODES = ("letters", "constrained", "generate")
KEY = "secret-4711"
OTHER_TEMPLATE = (
    "{% for message in messages %}<|user|>{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}<|assistant|>"
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """An adapter that changes what nano-mllm answers."""
    folder = tmp_path_factory.mktemp("run") / "adapter"
    recipe = load_recipe(["recipe=ranker_lora", f"out={folder.parent}"])
    tuned = add_lora(load_mllm(RankerArgs()), recipe.ranker.lora)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in tuned.model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.04 * torch.randn(parameter.shape, generator=generator)
    save_adapter(tuned, folder, recipe, {})
    return folder


@pytest.fixture(scope="module")
def tuned(adapter) -> Mllm:
    return load_adapter(load_mllm(RankerArgs()), adapter)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(server, "BACKOFF_S", 0.01)
    server.SENT.clear()  # ports may be used again
    parity.PASSED.clear()
    monkeypatch.setenv("RAR_API_KEY", KEY)


@pytest.fixture
def hosted(nano, tuned) -> Nano:
    return Nano({"base": nano, "tuned": tuned})


def ranker_of(url: str, **changes) -> RankerArgs:
    args = {"base_url": url, "served_model": "base", "served_adapter": "tuned", "parity_images": 0} | changes
    return RankerArgs(mode="letters", backend="openai", server=ServerArgs(**args))


@pytest.fixture
def run_job(adapter) -> Callable:
    def run_job(url, requests, out: Path, mode="letters", tuned=False, **changes):
        job = InferenceJob("one", tuned, RankingMode(mode), RequestTable([[request] for request in requests]), 4)
        return answer_all_by_server([job], ranker_of(url, **changes), adapter, CPU, out)["one"]

    return run_job


def rankings(mode, requests, responses) -> list:
    ranked = [to_ranking(mode, r.names, r, s) for r, s in zip(requests, responses, strict=True)]
    return [(ranking.order, ranking.outcome) for ranking in ranked]


@pytest.mark.parametrize("mode", TEXT_MODES)
def test_rankings_are_the_local_ones(nano, hosted, adapter, requests, mode):
    with serve(hosted) as url:
        responses = ServedModel(ranker_of(url), RankingMode(mode), False, adapter, CPU).answer(requests)
    local = run_batch(nano, RankingMode(mode), requests)
    assert rankings(mode, requests, responses) == rankings(mode, requests, local)
    if mode == "letters":
        for ours, theirs in zip(local, responses, strict=True):
            expected = torch.tensor(ours.scores).log_softmax(-1)
            assert torch.tensor(theirs.scores).log_softmax(-1).tolist() == pytest.approx(expected.tolist(), abs=3e-3)
    else:
        assert [r.reply for r in responses] == [r.reply for r in local]


def test_exemplars_are_shown(nano, hosted, adapter, requests):
    shown = [replace(requests[1], examples=(requests[0].image, requests[2].image))]
    with serve(hosted) as url:
        responses = ServedModel(ranker_of(url), RankingMode("constrained"), False, adapter, CPU).answer(shown)
    assert responses == run_batch(nano, RankingMode("constrained"), shown)
    content = hosted.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 3 + ["text"]


@pytest.mark.parametrize("mode", TEXT_MODES)
def test_descriptions_are_shown(nano, hosted, adapter, requests, mode):
    names = requests[1].names
    described = [replace(requests[1], descriptions=(f"not {names[1]}", ""))]
    with serve(hosted) as url:
        args = ranker_of(url, parity_images=1)
        responses = ServedModel(args, RankingMode(mode), False, adapter, CPU).answer(described)
    assert rankings(mode, described, responses) == rankings(
        mode, described, run_batch(nano, RankingMode(mode), described)
    )
    assert all(f"not {names[1]}" in body["messages"][0]["content"][-1]["text"] for body in hosted.bodies)


def test_parity_holds_for_base_and_tuned_model_and_answers_are_requested_once(hosted, requests, run_job, tmp_path):
    with serve(hosted) as url:
        for name in (False, True):
            answers = run_job(url, requests, tmp_path, tuned=name, parity_images=3)
            assert list(answers) and set(answers) == {request.id for request in requests}
        sent = len(hosted.bodies)
        assert sent == 2 * (3 + 3 + len(requests))  # three images, three patterns, and the requests
        assert run_job(url, requests, tmp_path, tuned=True, parity_images=3) == answers
        assert len(hosted.bodies) == sent


@pytest.mark.parametrize(
    ("fault", "is_tuned", "likely"),
    [
        ({"template": OTHER_TEMPLATE}, False, "Likely another chat template"),
        pytest.param({"template": OTHER_TEMPLATE}, True, "Likely another chat template", marks=pytest.mark.slow),
        ({"shrink": 48}, False, "Likely the images arrive changed"),
        pytest.param({"shrink": 32}, True, "Likely the images arrive changed", marks=pytest.mark.slow),
        ({"models": ("base", "base")}, True, "Likely the adapter is missing"),
        ({"models": ("tuned", "tuned")}, False, "has the adapter already"),
    ],
)
def test_a_server_that_is_not_the_local_model_is_refused(hosted, requests, run_job, tmp_path, fault, is_tuned, likely):
    if "models" in fault:
        names = fault["models"]
        fault = {"models": {"base": hosted.models[names[0]], "tuned": hosted.models[names[1]]}}
    faulty = replace(hosted, **fault)
    with serve(faulty) as url, pytest.raises(UserError, match=likely):
        run_job(url, requests, tmp_path, tuned=is_tuned, parity_images=3)
    assert not list(tmp_path.rglob("answers-one.jsonl"))


def test_every_model_is_checked_before_anything_is_answered(hosted, adapter, requests, tmp_path):
    table = RequestTable([[request] for request in requests])
    jobs = [InferenceJob(name, name == "tuned", RankingMode("letters"), table, 4) for name in ("base", "tuned")]
    faulty = replace(hosted, models={"base": hosted.models["base"], "tuned": hosted.models["base"]})
    with serve(faulty) as url, pytest.raises(UserError, match="Likely the adapter is missing"):
        answer_all_by_server(jobs, ranker_of(url, parity_images=3), adapter, CPU, tmp_path)
    assert not list(tmp_path.rglob("answers-*.jsonl"))


def test_a_model_is_checked_once_per_process(hosted, adapter, requests, run_job, tmp_path, monkeypatch):
    with serve(hosted) as url:
        run_job(url, requests[:2], tmp_path, parity_images=1)
        monkeypatch.setattr(parity, "load_mllm", lambda _: pytest.fail("the local model is loaded again"))
        run_job(url, requests[:2], tmp_path, "generate", parity_images=1)
        ServedModel(ranker_of(url, parity_images=1), RankingMode("letters"), False, adapter, CPU).answer(requests[:2])
    assert len(hosted.bodies) == 2 + 3 * 2


def half_fail(number: int):
    failures = [
        (500, {}, b"out of memory"),
        (429, {"Retry-After": "0"}, b"{}"),
        (200, {}, b"<html>proxy</html>"),
        (200, {}, b'{"choices": [{"message": {"content": "['),
        (200, {}, b'{"choices": []}'),
        (200, {"Content-Encoding": "gzip"}, b"no gzip"),
        (521, {}, b"down"),
    ]
    return failures[number // 2 % len(failures)] if number % 2 else None


@pytest.mark.parametrize("mode", ["letters", pytest.param("constrained", marks=pytest.mark.slow)])
def test_a_server_that_fails_half_of_the_time_gives_the_same_answers_and_failures_are_counted(
    nano, hosted, many, run_job, tmp_path, caplog, mode
):
    caplog.set_level(logging.INFO)
    hosted.fail = half_fail
    many = [request for request in many if mode == "letters" or len(request.names) <= 3]
    with serve(hosted) as url:
        answers = run_job(url, many, tmp_path, mode, max_retries=30)
    local = run_batch(nano, RankingMode(mode), many)
    responses = [answers[request.id] for request in many]
    assert rankings(mode, many, responses) == rankings(mode, many, local)
    assert "HTTP 500: " in caplog.text and "HTTP 429: " in caplog.text
    assert "unusable reply (JSONDecodeError): " in caplog.text and "unusable reply (IndexError): " in caplog.text
    assert "unusable reply (DecodingError): " in caplog.text and "HTTP 521: " in caplog.text
    sent = int(re.search(r"(\d+) requests, failed", caplog.text)[1])
    lost = re.search(r"no connection \(\w+\): (\d+)", caplog.text)  # of a busy machine: the server never saw these
    assert sent == len(hosted.bodies) + (int(lost[1]) if lost else 0)


def test_the_tuned_model_may_be_on_another_server(hosted, tuned, requests, run_job, tmp_path):
    merged = Nano({"merged": tuned})
    with serve(hosted) as url, serve(merged) as other:
        run_job(url, requests, tmp_path, tuned=True, adapter_url=other, served_adapter="merged", parity_images=1)
    assert not hosted.bodies and len(merged.bodies) == 2 + len(requests)


def test_a_slow_reply_is_given_up_and_requested_again(hosted, requests, run_job, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    hosted.fail = pause(2.0, [2])
    with serve(hosted) as url:
        answers = run_job(url, requests, tmp_path, timeout_s=1, max_retries=20, max_concurrency=2)
    assert len(answers) == len(requests)
    assert "no reply in 1 s: " in caplog.text


def test_a_server_that_keeps_failing_ends_the_run_with_the_answers_so_far(hosted, requests, run_job, tmp_path):
    hosted.fail = lambda number: (503, {}, b"overloaded") if number > 2 else None
    with serve(hosted) as url:
        with pytest.raises(UserError, match=r"HTTP 503, after 3 attempts; answers so far are kept"):
            run_job(url, requests, tmp_path, max_retries=2, max_concurrency=1)
        (path,) = tmp_path.rglob("answers-one.jsonl")
        assert len(path.read_text().splitlines()) == 2
        hosted.fail = lambda number: None
        before = len(hosted.bodies)
        assert len(run_job(url, requests, tmp_path)) == len(requests)
        assert len(hosted.bodies) - before == len(requests) - 2


def test_the_spending_limit_counts_repeated_requests_and_stops_the_run_with_the_answers_so_far(
    hosted, requests, run_job, tmp_path
):
    hosted.fail = lambda number: (500, {}, b"") if number == 1 else None
    with serve(hosted) as url:
        with pytest.raises(UserError, match=r"ranker\.server\.max_requests=4: reached; answers so far are kept"):
            run_job(url, requests, tmp_path, max_requests=4, max_concurrency=1)
        assert len(hosted.bodies) == 4
        (path,) = tmp_path.rglob("answers-one.jsonl")
        assert len(path.read_text().splitlines()) == 3
        server.SENT.clear()  # another command
        assert len(run_job(url, requests, tmp_path, max_requests=2)) == len(requests)


def test_the_spending_limit_is_of_all_calls_together(hosted, requests, run_job, tmp_path):
    with serve(hosted) as url:
        run_job(url, requests[:3], tmp_path / "first", max_requests=4, max_concurrency=1)
        with pytest.raises(UserError, match=r"ranker\.server\.max_requests=4: reached"):
            run_job(url, requests, tmp_path / "second", max_requests=4, max_concurrency=1)
    assert len(hosted.bodies) == 4


def test_a_call_repeated_after_an_error_requests_only_the_rest(nano, hosted, adapter, requests):
    mode = RankingMode("generate")
    hosted.fail = lambda number: (401, {}, b"no") if number == 3 else None
    with serve(hosted) as url:
        model = ServedModel(ranker_of(url, max_concurrency=1), mode, False, adapter, CPU)
        with pytest.raises(UserError, match=r"refused with HTTP 401: no$"):
            model.answer(requests)
        assert model.answer(requests) == run_batch(nano, mode, requests)
    assert len(hosted.bodies) == 1 + len(requests)


def test_ctrl_c_keeps_the_answers_so_far(hosted, requests, run_job, tmp_path):
    def interrupt(number: int) -> None:
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    hosted.fail = interrupt
    with serve(hosted) as url:
        with pytest.raises(Interrupted, match="the same command resumes from the answers that are there"):
            run_job(url, requests, tmp_path, max_concurrency=1)
        (path,) = tmp_path.rglob("answers-one.jsonl")
        assert len(path.read_text().splitlines()) == 2
        assert len(run_job(url, requests, tmp_path)) == len(requests)


def test_names_are_guessed_as_by_the_local_model(nano, hosted, adapter, requests):
    mode = RankingMode("name", reply_tokens=8, prompt="What does the picture show?")
    unnamed = [replace(request, names=()) for request in requests[:2]]
    with serve(hosted) as url:
        model = ServedModel(ranker_of(url, parity_images=2), mode, False, adapter, CPU)
        assert model.answer(unnamed) == run_batch(nano, mode, unnamed)


def test_a_line_cut_by_a_kill_is_requested_again_and_a_changed_one_is_named(hosted, requests, run_job, tmp_path):
    with serve(hosted) as url:
        answers = run_job(url, requests, tmp_path)
        (path,) = tmp_path.rglob("answers-one.jsonl")
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        assert run_job(url, requests, tmp_path) == answers
        assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
        line = json.loads(whole.splitlines()[0])
        path.write_text(json.dumps(line | {"scores": line["scores"][::-1]}) + "\n")
        with pytest.raises(UserError, match=r"answers-one\.jsonl, line 1: damaged"):
            run_job(url, requests, tmp_path)


def test_the_key_is_sent_and_is_in_no_file_log_or_error(hosted, requests, run_job, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with serve(hosted) as url:
        run_job(url, requests, tmp_path, parity_images=1)
        assert set(hosted.keys) == {f"Bearer {KEY}"}
        hosted.fail = lambda number: (401, {}, f"Incorrect API key: {KEY}".encode())
        with pytest.raises(UserError, match=r"refused with HTTP 401: Incorrect API key: \*\*\*") as error:
            run_job(url, requests, tmp_path / "other")
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(texts) > 1 and not any(KEY in text for text in (*texts, caplog.text, str(error.value)))


def test_openais_own_key_is_sent_to_openai_alone(hosted, requests, run_job, tmp_path, monkeypatch):
    monkeypatch.delenv("RAR_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    with serve(hosted) as url:
        run_job(url, requests, tmp_path)
    assert set(hosted.keys) == {None}


def test_a_server_that_ignores_the_constraint_is_an_error(hosted, requests, run_job, tmp_path):
    hosted.ignore_grammar = True
    with serve(hosted) as url, pytest.raises(UserError, match="not a permutation, so the server ignored the constr"):
        run_job(url, requests[1:2], tmp_path, "constrained")
    assert len(hosted.bodies) == 2  # greedy decoding gives the same again


def test_likelihood_and_a_tuned_model_without_a_served_name_are_refused(hosted, requests, run_job, tmp_path):
    with pytest.raises(UserError, match=r"ranker\.mode=likelihood: .* set ranker\.mode=letters"):
        RankerArgs(backend="openai", server=ServerArgs(base_url="http://127.0.0.1:1/v1"))
    with serve(hosted) as url, pytest.raises(UserError, match=r"give ranker\.server\.served_adapter=NAME"):
        run_job(url, requests, tmp_path, tuned=True, served_adapter=None)


def test_a_server_that_is_not_there_is_named(requests, run_job, tmp_path):
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:1/v1/models: no connection \(ConnectError\)"):
        run_job("http://127.0.0.1:1/v1", requests, tmp_path, max_retries=1)
