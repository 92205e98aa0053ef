"""The environment overrides the mode of Weights & Biases, and uploading needs a key before a run starts."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from data_prep.core.errors import UserError
from data_prep.settings import TrackingArgs
from data_prep.settings.loading import load_recipe
from rar_train.engine.wandb_mode import check_tracking, wandb_mode
from rar_train.fit import fit


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """Removes settings and keys of the user who runs the tests."""
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.parametrize(
    ("environment", "recipe", "expected"),
    [
        ({}, "offline", "offline"),
        ({"WANDB_MODE": ""}, "online", "online"),
        ({"WANDB_MODE": "disabled"}, "online", "disabled"),
        ({"WANDB_MODE": "dryrun"}, "online", "offline"),
        ({"WANDB_MODE": "online"}, "offline", "online"),
        ({"WANDB_DISABLED": "true"}, "offline", "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline", "offline"),
    ],
)
def test_the_environment_overrides_the_recipe(environment, recipe, expected, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode(TrackingArgs(wandb=recipe)) == expected


def test_an_unknown_mode_of_wandb_is_an_error(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(UserError, match="WANDB_MODE=of: must be online, offline or disabled"):
        wandb_mode(TrackingArgs())


@pytest.fixture
def server(monkeypatch) -> Iterator[HTTPServer]:
    """Serves as W&B's server, on this machine; it answers every request with an error."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.RequestHandlerClass.log_message = lambda *arguments: None
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_uploading_needs_a_key(monkeypatch, tmp_path, server):
    with pytest.raises(UserError, match=r"there is no key .* run wandb login, or set tracking.wandb=offline"):
        check_tracking(TrackingArgs(wandb="online"))
    check_tracking(TrackingArgs(wandb="offline"))
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:{server.server_port} login user password secret\n")
    check_tracking(TrackingArgs(wandb="online"))
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    check_tracking(TrackingArgs(wandb="online"))


def test_a_server_that_does_not_answer_ends_fit_before_any_work(monkeypatch, tmp_path):
    with socket.socket() as taken:  # nothing listens on this port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        message = rf"tracking.wandb=online: no answer from {url} \(.*refused.*\); check the network, or set .*offline"
        settings = [f"out={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}"]
        with pytest.raises(UserError, match=message):
            fit(load_recipe(["recipe=ranker_lora", "tracking.wandb=online", *settings]))
        assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_not_the_first_asks_no_server(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://nowhere.invalid")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("LOCAL_RANK", "1")
    check_tracking(TrackingArgs(wandb="online"))
