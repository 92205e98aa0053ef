"""Keeps a reply to permutations of the candidates while it is written, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Permutations:
    """The tokens that may come next so that a reply stays a list of every candidate once.

    The lists are tokenised whole, as in training, and not name by name: a quote and a comma may be
    one token. There are k! of them, so they are laid out lazily: every choice of the name that is
    being written, with one that may follow it for each kind of quote, since a quote may share a token with
    the end of the name before it.

    Args:
        tokenise: From names in some order to the tokens of their list and the turn's end.
        names: Distinct candidates.
    """

    def __init__(self, tokenise: Callable[[Sequence[str]], Sequence[int]], names: Sequence[str]):
        self.tokenise = tokenise
        self.decided: tuple[str, ...] = ()
        self.rest = tuple(names)
        self.open = self._lists()

    def _lists(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """Tokens of lists by order, at least one for every choice of the next name."""
        lists = {}
        for name in self.rest:
            others = [other for other in self.rest if other != name]
            for after in {repr(other)[0]: other for other in others}.values():
                order = (*self.decided, name, after, *(other for other in others if other != after))
                lists[order] = tuple(self.tokenise(order))
            if not others:
                lists[*self.decided, name] = tuple(self.tokenise((*self.decided, name)))
        return lists

    def allowed(self, written: Sequence[int]) -> list[int]:
        """Tokens that may follow what is written; none after the turn's end.

        Args:
            written: Token ids so far, each of which was allowed.
        """
        written = tuple(written)
        self._keep(written)
        while len(self.rest) > 1:
            place = len(self.decided)
            next_names = {order[place] for order in self.open}
            if len(next_names) > 1:
                break
            # The next name is decided; what may come after it opens.
            before = self.open
            (name,) = next_names
            self.decided = (*self.decided, name)
            self.rest = tuple(other for other in self.rest if other != name)
            self.open = self._lists()
            self._keep(written)
            self.open = self.open or before
        return sorted({tokens[len(written)] for tokens in self.open.values() if len(tokens) > len(written)})

    def _keep(self, written: tuple[int, ...]) -> None:
        count = len(written)
        self.open = {order: tokens for order, tokens in self.open.items() if tokens[:count] == written}
