"""What Weights & Biases is to do, by the recipe and the environment, and whether it has the key for it."""

from __future__ import annotations

import netrc
import os

from data_prep.core.errors import UserError
from data_prep.settings import TrackingArgs

_MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}


def wandb_mode(args: TrackingArgs) -> str:
    """``offline``, ``online`` or ``disabled``: the recipe's, unless the environment says otherwise.

    Raises:
        UserError: ``WANDB_MODE`` is none of wandb's.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1", "yes"):
        return "disabled"
    said = os.environ.get("WANDB_MODE", "").lower()
    if said and said not in _MODES:
        raise UserError(f"WANDB_MODE={said}: must be online, offline or disabled")
    return _MODES[said] if said else args.wandb


def has_key() -> bool:
    """Whether there is a key for W&B's server; whether it is valid is not asked."""
    return bool(os.environ.get("WANDB_API_KEY")) or _kept_key()


def _kept_key() -> bool:
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].rstrip("/")
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def check_tracking(args: TrackingArgs) -> None:
    """Makes sure, before anything is made, that what the tracker is to do can be done.

    Raises:
        UserError: It is to upload, and there is no key.
    """
    if wandb_mode(args) == "online" and not has_key():
        raise UserError(
            "tracking.wandb=online: there is no key (WANDB_API_KEY or ~/.netrc); run wandb login, or set "
            "tracking.wandb=offline, whose runs can be uploaded later"
        )
