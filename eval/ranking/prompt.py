"""The text of a ranking request's prompt."""

from __future__ import annotations

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS, NAMING, letters_prompt, list_prompt, with_exemplars
from eval.ranking.request import RankingMode, RankingRequest


def build_prompt(mode: RankingMode, request: RankingRequest) -> str:
    """Formats a request's prompt, with the names in the order to show.

    Raises:
        UserError: There are more candidates than letters in mode ``letters``.
    """
    names = request.shown_names
    if mode.mode == "letters" and len(names) > len(LETTERS):
        raise UserError(
            f"{len(names)} candidates, but mode letters has {len(LETTERS)} letters; rank fewer, or by another mode"
        )
    prompt = {
        "likelihood": lambda: NAMING,
        "letters": lambda: letters_prompt(names),
        "constrained": lambda: list_prompt(names, mode.structured),
        "generate": lambda: list_prompt(names, mode.structured),
        "name": lambda: mode.prompt,
    }[mode.mode]()
    return with_exemplars(prompt) if request.examples else prompt
