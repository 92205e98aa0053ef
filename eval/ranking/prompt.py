"""The text of a ranking request's prompt."""

from __future__ import annotations

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_prompt, with_exemplars
from eval.ranking.request import RankingMode, RankingRequest


def build_prompt(mode: RankingMode, request: RankingRequest) -> str:
    """Formats a request's prompt, with names and descriptions in the order to show.

    Raises:
        UserError: There are more candidates than letters in mode ``letters``.
    """
    names, descriptions = request.shown_names, request.shown_descriptions
    if mode.mode == "letters" and len(names) > len(LETTERS):
        raise UserError(
            f"{len(names)} candidates, but mode letters has {len(LETTERS)} letters; rank fewer, or by likelihood "
            "(on a server by generate)"
        )
    prompt = {
        "likelihood": lambda: NAMING,
        "letters": lambda: letters_prompt(names, descriptions),
        "constrained": lambda: list_prompt(names, mode.structured, descriptions),
        "generate": lambda: list_prompt(names, mode.structured, descriptions),
        "name": lambda: mode.prompt,
    }[mode.mode]()
    return with_exemplars(prompt) if request.examples else prompt
