"""The environment overrides the mode of Weights & Biases, and uploading needs a key before a run starts."""

from __future__ import annotations

import pytest

from data_prep.core.errors import UserError
from data_prep.settings import TrackingArgs
from rar_train.engine.wandb_mode import check_tracking, wandb_mode


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


def test_uploading_needs_a_key(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"there is no key .* run wandb login, or set tracking.wandb=offline"):
        check_tracking(TrackingArgs(wandb="online"))
    check_tracking(TrackingArgs(wandb="offline"))
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    check_tracking(TrackingArgs(wandb="online"))
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    check_tracking(TrackingArgs(wandb="online"))
