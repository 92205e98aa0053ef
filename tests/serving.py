"""A server of chat completions around nano-mllm, as vLLM's: real HTTP, log-probabilities and grammars."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from PIL import Image
from torch import Tensor

from rar_train.models.decoding import decode_texts, generate
from rar_train.models.mllm import Mllm


@dataclass
class Nano:
    """Models by served name, and what is wrong with the server.

    Attributes:
        models: Models by name.
        template: A chat template in place of the model's own.
        shrink: Edge in pixels to which images are shrunk; 0 to leave them.
        ignore_grammar: Answer without the constraint.
        top: Most alternatives of a token.
        fail: Called with the number of each completion; what it returns is sent instead: a status with headers and a
            body, or nothing to answer.
        owner: The software that it claims to be.
        bodies: Bodies received.
        keys: Authorization headers received.
    """

    models: dict[str, Mllm]
    template: str | None = None
    shrink: int = 0
    ignore_grammar: bool = False
    top: int = 20
    fail: Callable[[int], tuple[int, dict[str, str], bytes] | None] = lambda number: None
    owner: str = "vllm"
    bodies: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def listing(self) -> dict:
        """The reply to ``GET /v1/models``."""
        return {"data": [{"id": name, "owned_by": self.owner, "root": f"/models/{name}"} for name in self.models]}

    @torch.inference_mode()
    def complete(self, body: dict) -> dict:
        """The reply to a chat completion."""
        mllm = self.models[body["model"]]
        content = body["messages"][0]["content"]
        images = [self._decode(part["image_url"]["url"]) for part in content if part["type"] == "image_url"]
        parts = [{"type": "image"} if part["type"] == "image_url" else part for part in content]
        template = {"chat_template": self.template} if self.template else {}
        text = mllm.processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False, **template
        )
        start = {"add_special_tokens": not text.startswith(mllm.processor.tokenizer.bos_token or "\0")}
        inputs = (
            mllm.processor(images=[images], text=[text], return_tensors="pt", **start)
            if images
            else mllm.processor.tokenizer([text], return_tensors="pt", **start)
        )
        inputs = {key: value for key, value in inputs.items() if key != "token_type_ids"}
        if body.get("logprobs"):
            return self._one_token(mllm, inputs, min(body["top_logprobs"], self.top))
        grammar = None if self.ignore_grammar else body.get("structured_outputs", {}).get("grammar")
        allowed = _allowed_tokens(mllm, grammar, inputs["input_ids"].shape[1]) if grammar else None
        ids = generate(mllm, inputs, body["max_tokens"], allowed)
        return {"choices": [{"message": {"content": decode_texts(mllm, ids)[0]}, "finish_reason": "stop"}]}

    def _decode(self, url: str) -> Image.Image:
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
        return image.resize((self.shrink, self.shrink)) if self.shrink else image

    def _one_token(self, mllm: Mllm, inputs: dict[str, Tensor], count: int) -> dict:
        values, ids = mllm.model(**inputs).logits[0, -1].float().log_softmax(-1).topk(count)
        tokens = [
            {"token": mllm.processor.tokenizer.decode([index]), "logprob": value}
            for value, index in zip(values.tolist(), ids.tolist(), strict=True)
        ]
        content = [tokens[0] | {"top_logprobs": tokens}]
        message = {"content": tokens[0]["token"]}
        return {"choices": [{"message": message, "logprobs": {"content": content}, "finish_reason": "length"}]}


def expand(grammar: str, symbol: str = "root") -> Iterator[str]:
    """All texts of a grammar without recursion."""
    rules = dict(line.split(" ::= ", 1) for line in grammar.splitlines())
    parts = re.findall(r'"(?:[^"\\]|\\.)*"|\w+|\|', rules[symbol])
    options: list[list[str]] = [[]]
    for part in parts:
        options.append([]) if part == "|" else options[-1].append(part)
    for option in options:
        texts = [""]
        for part in option:
            tails = [json.loads(part)] if part.startswith('"') else list(expand(grammar, part))
            texts = [text + tail for text in texts for tail in tails]
        yield from texts


def _allowed_tokens(mllm: Mllm, grammar: str, start: int) -> Callable[[int, Tensor], list[int]]:
    """The tokens that may follow, for each text of the grammar as the model was trained to write it."""
    rows = [mllm.answer_ids("-", text) for text in expand(grammar)]

    def allowed(_: int, ids: Tensor) -> list[int]:
        written = tuple(ids[start:].tolist())
        following = {row[len(written)] for row in rows if row[: len(written)] == written and len(row) > len(written)}
        return sorted(following) or [mllm.turn_end_id]

    return allowed


@contextmanager
def serve(nano: Nano) -> Iterator[str]:
    """Serves on a free port of this machine; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            nano.keys.append(self.headers.get("Authorization"))
            self._send(200, {}, json.dumps(nano.listing()).encode())

        def do_POST(self) -> None:
            nano.keys.append(self.headers.get("Authorization"))
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with nano.lock:
                nano.bodies.append(body)
                number = len(nano.bodies)
            failure = nano.fail(number)
            if failure:
                self._send(*failure)
            elif body["model"] not in nano.models:
                self._send(404, {}, json.dumps({"error": {"message": f"no model {body['model']}"}}).encode())
            else:
                with nano.lock:
                    reply = nano.complete(body)
                self._send(200, {}, json.dumps(reply).encode())

        def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that gave up is no error."""

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def pause(seconds: float, numbers: Sequence[int]) -> Callable[[int], None]:
    """Makes the completions of some numbers slow, for ``Nano.fail``."""

    def fail(number: int) -> None:
        if number in numbers:
            time.sleep(seconds)

    return fail
