"""The model hub: where it does not answer, models come from local copies or not at all, at once."""

from __future__ import annotations

import logging
from functools import lru_cache

log = logging.getLogger(__name__)

_SECONDS = 5  # for the one request that decides; the hub's client itself retries for minutes


@lru_cache(maxsize=1)
def settle_hub() -> bool:
    """Asks the hub once whether it answers; where it does not, this process uses its cache alone.

    Returns:
        bool: Whether the hub can be reached. ``HF_HUB_OFFLINE=1`` answers no without asking.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:  # the client's error types differ between its releases
        log.warning("the model hub does not answer (%s): only local copies are used", type(error).__name__)
        constants.HF_HUB_OFFLINE = True
        return False
    return True
