"""Reachability of the model hub: if it does not answer, only local copies are used, without waiting for retries."""

from __future__ import annotations

import logging
from functools import lru_cache

log = logging.getLogger(__name__)

_TIMEOUT_S = 5  # for the one request that decides; the hub's own client retries for minutes


@lru_cache(maxsize=1)
def check_hub() -> bool:
    """Checks once whether the hub answers; if it does not, this process uses only the local cache.

    Returns:
        bool: Whether the hub is reachable; False without a request if ``HF_HUB_OFFLINE=1``.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT_S)
    except Exception as error:  # the client's error types differ between its releases
        log.warning("the model hub does not answer (%s): using local copies only", type(error).__name__)
        constants.HF_HUB_OFFLINE = True
        return False
    return True
