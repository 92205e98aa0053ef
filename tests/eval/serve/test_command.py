"""``python -m eval.serve`` as a process: restarts with its memory, many clients, and wrong options."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from data_prep.core.errors import UserError
from eval.recognizer.recognizer import Recognizer
from eval.serve.server import Options, serve
from tests.commands import command_line, environment
from tests.eval.serve.conftest import AUTHORIZED, NAMES, TOKEN, assert_equal, send


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def start(finished, tmp_path) -> Iterator[Callable[..., tuple[subprocess.Popen, httpx.Client]]]:
    """Starts the command, and returns it with a client once it answers."""
    processes = []

    def start(*arguments: str) -> tuple[subprocess.Popen, httpx.Client]:
        port = free_port()
        words = ["--ckpt", str(finished), "--port", str(port), "trainer.accelerator=cpu", *arguments]
        with open(tmp_path / "log", "a") as log:
            process = subprocess.Popen(
                command_line("eval.serve", *words), env=environment() | {"RAR_SERVE_TOKEN": TOKEN}, stderr=log
            )
        processes.append(process)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        for _ in range(1800):
            try:
                client.get("/health")
                return process, client
            except httpx.TransportError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.2)
        raise AssertionError((tmp_path / "log").read_text())

    yield start
    for process in processes:
        process.kill()
        process.wait()


def end(process: subprocess.Popen, how: int) -> None:
    process.send_signal(how)
    assert process.wait(60) == 0


def test_a_restarted_service_has_the_classes_it_had(start, images, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES[:5]))
    words = ("--classes", str(tmp_path / "names.txt"), "--memory", str(tmp_path / "memory"))
    process, client = start(*words)
    files = {"images": images[6][0]}
    assert client.post("/classes", files=files, data={"name": NAMES[6]}, headers=AUTHORIZED).status_code == 200
    assert client.delete(f"/classes/{NAMES[0]}", headers=AUTHORIZED).status_code == 200
    classes, results = client.get("/classes").json(), send(client, [images[6][1], images[1][0]])
    assert {entry["name"] for entry in classes["classes"]} == {*NAMES[1:5], NAMES[6]}
    with pytest.raises(UserError, match="another command has been changing it"):
        serve(Options(Path("unused"), memory=tmp_path / "memory", port=free_port()))
    end(process, signal.SIGTERM)
    process, client = start("--memory", str(tmp_path / "memory"))
    assert client.get("/classes").json() == classes
    assert_equal(send(client, [images[6][1], images[1][0]]), results)
    end(process, signal.SIGINT)
    log = (tmp_path / "log").read_text()
    assert TOKEN not in log and "serve: ended" in log and "Traceback" not in log


def test_wrong_options_are_named(finished, tmp_path, monkeypatch):
    for option, message in (
        ({"port": 0}, "--port 0"),
        ({"max_mb": 0}, "--max-mb 0"),
        ({"max_images": 0}, "--max-images 0"),
        ({"classes": tmp_path / "none"}, "--classes .*none: no such folder or file"),
    ):
        with pytest.raises(UserError, match=message):
            Options(finished, **option)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port}: can't listen there"):
            serve(Options(finished, port=port))
    (tmp_path / "photographs" / "cross").mkdir(parents=True)
    with pytest.raises(UserError, match="photographs: holds cross, but no memory; give a new folder"):
        serve(Options(finished, memory=tmp_path / "photographs", port=free_port()))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rar-train\[serve\]'"):
        serve(Options(finished))


@pytest.mark.slow
def test_eight_clients_and_five_hundred_requests_leave_the_memory_flat(start, finished, images, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    process, client = start("--classes", str(tmp_path / "names.txt"))
    recognizer = Recognizer.from_pretrained(finished, NAMES, "trainer.accelerator=cpu")
    files = [file for row in images for file in row]
    expected = [result.to_dict() for result in recognizer.predict(files)]
    resident = psutil.Process(process.pid).memory_info

    def ask(number: int) -> None:
        wanted = [(number * 5 + i) % len(files) for i in range(1 + number % 4)]
        assert_equal(send(client, [files[i] for i in wanted]), [expected[i] for i in wanted])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(200)))  # by then every thread has its buffers
        before = resident().rss
        list(pool.map(ask, range(500)))
    assert resident().rss < before * 1.1 + 10e6
    assert os.waitpid(process.pid, os.WNOHANG) == (0, 0)
    end(process, signal.SIGTERM)
