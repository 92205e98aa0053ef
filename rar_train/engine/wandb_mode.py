"""The mode of Weights & Biases, by recipe and environment, and the check for its API key and its server."""

from __future__ import annotations

import netrc
import os
import urllib.error
import urllib.request

from data_prep.core.errors import UserError
from data_prep.core.ranks import is_first_process
from data_prep.settings import TrackingArgs

_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
_SECONDS = 5  # that the server may take to answer


def wandb_mode(args: TrackingArgs) -> str:
    """Returns ``offline``, ``online`` or ``disabled``: the recipe's mode, unless the environment overrides it.

    Raises:
        UserError: ``WANDB_MODE`` is not one of wandb's modes.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    override = os.environ.get("WANDB_MODE", "").lower()
    if override and override not in _MODES:
        raise UserError(f"WANDB_MODE={override}: must be online, offline or disabled")
    return _MODES[override] if override else args.wandb


def has_key() -> bool:
    """Tells whether there is an API key for W&B's server; its validity is not checked."""
    return bool(os.environ.get("WANDB_API_KEY")) or _is_in_netrc()


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def _is_in_netrc() -> bool:
    host = _server().split("//")[-1].rstrip("/")
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def why_unreachable() -> str:
    """Returns why W&B's server does not answer within seconds; empty where it does, whatever it answers."""
    try:
        with urllib.request.urlopen(_server(), timeout=_SECONDS):
            return ""
    except urllib.error.HTTPError:  # it answers
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def check_tracking(args: TrackingArgs) -> None:
    """Checks, before any work is done, that the tracker can run in its mode.

    Raises:
        UserError: Uploading is on, and there is no key, or the server does not answer.
    """
    if wandb_mode(args) != "online":
        return
    remedy = "set tracking.wandb=offline, whose runs can be uploaded later by wandb sync"
    if not has_key():
        raise UserError(
            f"tracking.wandb=online: there is no key (WANDB_API_KEY or ~/.netrc); run wandb login, or {remedy}"
        )
    reason = why_unreachable() if is_first_process() else ""
    if reason:
        raise UserError(f"tracking.wandb=online: no answer from {_server()} ({reason}); check the network, or {remedy}")
