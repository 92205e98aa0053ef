"""The ranking modes: complete rankings, which do not depend on the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import list_prompt
from data_prep.settings import MODES, POINTWISE, SCORED
from eval.ranking.modes import run_batch
from eval.ranking.parsing import to_ranking
from eval.ranking.request import RankingMode, RankingRequest
from rar_train.models.mllm import Mllm


def rankings(mllm: Mllm, mode: str, requests: list[RankingRequest], size: int) -> list[tuple]:
    """Returns orders and outcomes of requests that are run in batches of a size."""
    responses = []
    for start in range(0, len(requests), size):
        responses += run_batch(mllm, RankingMode(mode), requests[start : start + size])
    ranked = [to_ranking(mode, r.names, r, s) for r, s in zip(requests, responses, strict=True)]
    return [(ranking.order, ranking.outcome) for ranking in ranked]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_ranks_every_request(nano, requests, mode):
    responses = run_batch(nano, RankingMode(mode), requests)
    assert len(responses) == len(requests)
    for request, response in zip(requests, responses, strict=True):
        assert len(response.scores) == (len(request.names) if mode in SCORED else 0)
        ranking = to_ranking(mode, request.names, request, response)
        assert sorted(ranking.order) == list(range(len(request.names)))
        if mode == "constrained":
            assert ranking.outcome == "ok"


@pytest.mark.parametrize("mode", MODES)
def test_rankings_are_the_same_in_batches_of_1_2_7_and_16_and_in_another_order(nano, many, mode):
    """Prompts have 2 to 6 names, so every batch is padded on the left."""
    together = rankings(nano, mode, many, 16)
    assert len({order for order, _ in together}) > 3
    for size in (1, 2, 7):
        assert rankings(nano, mode, many, size) == together
    assert rankings(nano, mode, many[::-1], 7)[::-1] == together


@pytest.mark.parametrize("mode", SCORED)
def test_scores_are_rounded_so_that_batches_agree(nano, requests, mode):
    together = run_batch(nano, RankingMode(mode), requests)
    for request, response in zip(requests, together, strict=True):
        (alone,) = run_batch(nano, RankingMode(mode), [request])
        assert response.scores == pytest.approx(alone.scores, abs=1.1e-3)
        assert all(score == round(score, 3) for score in response.scores)


@pytest.mark.parametrize("mode", MODES)
def test_responses_do_not_depend_on_the_order_of_the_names(nano, requests, mode):
    reversed_names = [replace(request, names=request.names[::-1]) for request in requests]
    for response, other in zip(
        run_batch(nano, RankingMode(mode), requests), run_batch(nano, RankingMode(mode), reversed_names), strict=True
    ):
        assert response.scores == pytest.approx(other.scores[::-1], abs=1.1e-3)
        assert response.reply == other.reply


@pytest.mark.parametrize("mode", POINTWISE)
def test_a_pointwise_score_does_not_depend_on_the_other_names(nano, requests, mode):
    (full,) = run_batch(nano, RankingMode(mode), requests[:1])
    (part,) = run_batch(nano, RankingMode(mode), [replace(requests[0], names=requests[0].names[1:3])])
    assert part.scores == pytest.approx(full.scores[1:3], abs=1.1e-3)


def test_responses_depend_on_the_image(nano, requests):
    other = replace(requests[0], image=requests[1].image)
    for mode in SCORED:
        scores, other_scores = (
            run_batch(nano, RankingMode(mode), [request])[0].scores for request in (requests[0], other)
        )
        assert scores != pytest.approx(other_scores, abs=0.01)


def test_more_candidates_than_letters_are_refused_in_mode_letters_and_ranked_in_the_others(nano, requests):
    names = tuple(f"azure, a bend or, {n} mullets argent" for n in range(30))
    request = replace(requests[0], names=names)
    with pytest.raises(UserError, match="30 candidates, but mode letters has 26 letters; rank fewer, or by likelihood"):
        run_batch(nano, RankingMode("letters"), [request])
    for mode in POINTWISE:
        (response,) = run_batch(nano, RankingMode(mode), [request])
        assert len(response.scores) == 30
    (response,) = run_batch(nano, RankingMode("generate"), [request])
    assert sorted(to_ranking("generate", names, request, response).order) == list(range(30))


@pytest.mark.parametrize("mode", MODES)
def test_a_single_candidate_gives_a_ranking_of_one(nano, requests, mode):
    request = replace(requests[0], names=requests[0].names[:1])
    (response,) = run_batch(nano, RankingMode(mode), [request])
    assert to_ranking(mode, request.names, request, response).order == (0,)


@pytest.mark.parametrize("mode", ["letters", "constrained", "generate"])
def test_examples_affect_the_scores_and_a_batch_may_mix_requests_with_and_without_them(nano, requests, mode):
    with_examples = replace(requests[0], examples=tuple(r.image for r in requests))
    with_others = replace(requests[0], examples=tuple(r.image for r in requests[::-1]))
    bare, first, second = run_batch(nano, RankingMode(mode), [requests[0], with_examples, with_others])
    assert bare == run_batch(nano, RankingMode(mode), [requests[0]])[0]
    if mode == "letters":
        assert first.scores != pytest.approx(bare.scores, abs=0.01)
        assert first.scores != pytest.approx(second.scores, abs=0.01)
    else:
        names = with_examples.names
        assert sorted(to_ranking(mode, names, with_examples, first).order) == list(range(len(names)))


def test_mode_yes_no_refuses_examples_and_shows_descriptions(nano, requests):
    described = replace(requests[0], descriptions=("a diagonal stripe", *[""] * (len(requests[0].names) - 1)))
    bare, shown = run_batch(nano, RankingMode("yes_no"), [requests[0], described])
    assert shown.scores[0] != pytest.approx(bare.scores[0], abs=2e-3)
    assert shown.scores[1:] == pytest.approx(bare.scores[1:], abs=2e-3)
    with pytest.raises(UserError, match="mode yes_no shows each candidate alone, without examples"):
        run_batch(nano, RankingMode("yes_no"), [replace(requests[0], examples=tuple(r.image for r in requests))])


def test_the_structured_prompt_is_used_where_it_is_set(nano, requests, monkeypatch):
    prompts = []
    inputs = nano.inputs
    monkeypatch.setattr(nano, "inputs", lambda images, texts: prompts.extend(texts) or inputs(images, texts))
    for structured in (False, True):
        run_batch(nano, RankingMode("generate", structured), requests[:1])
    names = requests[0].shown_names
    assert prompts == [list_prompt(names), list_prompt(names, structured=True)]


@pytest.mark.parametrize("mode", ["letters", "constrained", "generate"])
def test_a_prompt_shows_a_line_for_each_described_candidate(nano, requests, mode, monkeypatch):
    prompts = []
    render = nano.render
    monkeypatch.setattr(
        nano, "render", lambda prompt, *rest, **more: prompts.append(prompt) or render(prompt, *rest, **more)
    )
    names = requests[0].names
    described = replace(requests[0], descriptions=("like this", *[""] * (len(names) - 1)))
    run_batch(nano, RankingMode(mode), [described])
    assert any(line.endswith(f"{names[0]}: like this") for prompt in prompts for line in prompt.split("\n"))


def test_reply_tokens_limits_the_length_of_a_reply(nano, requests):
    short, default = (
        run_batch(nano, RankingMode("generate", False, tokens), requests[:1])[0].reply for tokens in (5, 0)
    )
    assert len(short) < len(default) and default.startswith(short)


def test_a_missing_image_is_named(nano, requests, tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: no such image"):
        run_batch(
            nano, RankingMode("likelihood"), [requests[0], replace(requests[1], image=str(tmp_path / "gone.png"))]
        )
