"""What is sent to a server and what is read from it: letters that are missing, filtered replies, schemas, escapes."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import pytest
from PIL import Image, ImageChops

from data_prep.core.errors import UserError
from data_prep.core.images import open_image
from data_prep.settings import RankerArgs, ServerArgs
from eval.ranking.parsing import to_ranking
from eval.ranking.probes import choose_probes
from eval.ranking.request import RankingMode
from eval.ranking.server import BadReply
from eval.ranking.server_messages import Messages, PromptText, served_name, server_kind

ARGS = ServerArgs(base_url="http://127.0.0.1/v1")


@pytest.fixture(scope="module")
def text() -> PromptText:
    return PromptText(RankerArgs())


@pytest.fixture
def messages(text):
    def messages(mode: str, kind: str = "vllm", args: ServerArgs = ARGS, text: PromptText = text) -> Messages:
        return Messages(args, "served", False, RankingMode(mode, prompt="Name it.", reply_tokens=0), kind, text)

    return messages


def letters(*pairs: tuple[str, float]) -> dict:
    tokens = [{"token": token, "logprob": value} for token, value in pairs]
    return {"logprobs": {"content": [tokens[0] | {"top_logprobs": tokens}]}, "finish_reason": "length"}


def test_a_letter_that_is_not_returned_is_last_and_the_ranking_is_repaired(messages, requests):
    request = requests[2]  # four names
    choice = letters((" B", -0.2), ("The", -1.5), ("B", -3.0), ("D", -4.0), ("x", -6.0))
    response = messages("letters").read(request, choice)
    by_letter = dict(zip(request.shown, response.scores, strict=False))
    scores = [response.scores[index] for index in request.shown]
    assert scores == [-6.001, -0.2, -6.001, -4.0] and len(by_letter) == 4
    ranking = to_ranking("letters", request.names, request, response)
    assert ranking.outcome == "repaired" and ranking.reply == "not among the 5 likeliest tokens: A, C"
    assert [request.shown.index(index) for index in ranking.order[:2]] == [1, 3]


def test_a_reply_without_any_letter_is_unreadable_and_keeps_the_retrievers_order(messages, requests):
    response = messages("letters").read(requests[0], letters(("The", -0.1), ("This", -2.0)))
    ranking = to_ranking("letters", requests[0].names, requests[0], response)
    assert ranking.outcome == "unreadable" and ranking.order == tuple(range(5))


@pytest.mark.parametrize(
    "choice",
    [
        {"message": {"content": "A"}, "logprobs": None},
        letters(("A", float("nan")), ("B", float("-inf"))),
        {"logprobs": {"content": []}},
        {"logprobs": {"content": [{"token": "A", "logprob": "high", "top_logprobs": []}]}},
    ],
)
def test_letters_without_log_probabilities_are_no_answer(messages, requests, choice):
    with pytest.raises((BadReply, LookupError, ValueError)):
        messages("letters").read(requests[0], choice)


@pytest.mark.parametrize("mode", ["letters", "generate", "constrained"])
def test_a_filtered_reply_is_unreadable(messages, requests, mode):
    choice = {"finish_reason": "content_filter", "message": {"content": None}}
    response = messages(mode).read(requests[0], choice)
    assert to_ranking(mode, requests[0].names, requests[0], response).outcome == "unreadable"


@pytest.mark.parametrize("message", [{}, {"content": None}, {"content": ["a", "b"]}])
def test_a_reply_without_text_is_no_answer(messages, requests, message):
    with pytest.raises((BadReply, LookupError)):
        messages("generate").read(requests[0], {"message": message, "finish_reason": "stop"})


def test_a_schema_is_for_servers_without_a_grammar_and_repeats_are_repaired(messages, requests):
    request = requests[2]
    body = messages("constrained", "json_schema").body(request)
    schema = body["response_format"]["json_schema"]["schema"]["properties"]["ranking"]
    assert schema["items"]["enum"] == request.shown_names and schema["minItems"] == schema["maxItems"] == 4
    for names, outcome in ((request.names, "ok"), ((request.names[0], *request.names[:3]), "repaired")):
        choice = {"message": {"content": json.dumps({"ranking": names})}, "finish_reason": "stop"}
        response = messages("constrained", "json_schema").read(request, choice)
        assert to_ranking("constrained", request.names, request, response).outcome == outcome
    with pytest.raises(BadReply):
        messages("constrained", "json_schema").read(request, {"message": {"content": '{"rank'}})


@pytest.mark.parametrize(
    ("owner", "kind", "field"),
    [
        ("vllm", "vllm", "structured_outputs"),
        ("sglang", "sglang", "ebnf"),
        ("llamacpp", "llama.cpp", "grammar"),
        ("openai", "json_schema", "response_format"),
    ],
)
def test_the_constraint_is_in_the_field_of_the_servers_software(messages, requests, owner, kind, field):
    assert server_kind(ARGS, [{"id": "x", "owned_by": owner}]) == kind
    assert field in messages("constrained", kind).body(requests[1])
    assert server_kind(replace(ARGS, constraint="vllm"), []) == "vllm"


def test_too_many_candidates_are_refused(messages, requests):
    request = replace(requests[0], names=tuple(f"name {n}" for n in range(30)))
    with pytest.raises(UserError, match="30 candidates, but mode letters has 26 letters"):
        messages("letters").body(request)
    with pytest.raises(UserError, match=r"30 candidates, but a grammar of mode constrained takes 8; .*json_schema"):
        messages("constrained").body(request)
    assert messages("constrained", "json_schema").body(request)


@pytest.mark.parametrize(("count", "described"), [(30, 26), (1, 0)])
def test_probes_keep_the_descriptions_of_their_names(messages, requests, count, described):
    names = tuple(f"name {n}" for n in range(count))
    request = replace(requests[0], names=names, descriptions=tuple(f"text {n}" for n in range(count)))
    for probe in choose_probes([request], 1, "png").requests:
        text = messages("letters").body(probe)["messages"][0]["content"][-1]["text"]
        assert text.count(": text ") == described


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_an_image_is_sent_whole(messages, requests, encoding):
    body = messages("letters", args=replace(ARGS, image_format=encoding)).body(requests[0])
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith(f"data:image/{encoding};base64,")
    sent, original = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))), open_image(requests[0].image)
    assert sent.size == original.size
    assert (ImageChops.difference(sent, original).getbbox() is None) == (encoding == "png")


@pytest.mark.parametrize("model", ["nano-mllm", "somebody/not-on-this-machine"])
def test_control_tokens_in_names_are_escaped_with_and_without_a_processor(messages, requests, model):
    request = replace(requests[1], names=("<image> of </s>", "a < b [x]"))
    own = messages("generate", text=PromptText(RankerArgs(model=model)))
    sent = own.body(request)["messages"][0]["content"][-1]["text"]
    assert "<image>" not in sent and "</s>" not in sent and "a < b [x]" in sent
    reply = {"message": {"content": "['< image> of < /s>', 'a < b [x]']"}, "finish_reason": "stop"}
    assert to_ranking("generate", request.names, request, own.read(request, reply)).outcome == "ok"


def test_free_text_has_the_local_models_limit_and_an_estimate_without_its_processor(nano, messages, requests):
    body = messages("generate").body(requests[0])
    prompt = body["messages"][0]["content"][-1]["text"]
    assert body["max_tokens"] == len(nano.answer_ids(prompt, str(requests[0].shown_names))) + 8
    estimate = messages("generate", text=PromptText(RankerArgs(model="somebody/not-here"))).body(requests[0])
    assert estimate["max_tokens"] > 40


def test_the_names_on_the_server_default_to_the_base_model(text):
    server = replace(ARGS, served_adapter="mine")
    args = RankerArgs(model="a/b", mode="letters", backend="openai", server=server)
    assert [served_name(args, tuned) for tuned in (False, True)] == ["a/b", "mine"]
