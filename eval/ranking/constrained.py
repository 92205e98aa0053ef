"""Constrained decoding: restricts a reply, token by token, to permutations of the candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class PermutationConstraint:
    """Gives the tokens that may come next so that a reply stays a list of every candidate exactly once.

    Lists are tokenised as a whole, as in training, and not name by name: a quote and a comma may be one token. There
    are k! of them, so they are expanded lazily: every choice of the name that is being written, followed by one
    possible next name for each kind of quote, since a quote may share a token with the end of the name before it.

    Args:
        tokenise: Maps names in some order to the tokens of their list, including the end of the turn.
        names: Distinct candidates.

    Attributes:
        prefix: The names that are already decided, in order.
        remaining: The names that are still to come.
        lists: Tokens of the lists that are still possible, by the order of their names.
    """

    def __init__(self, tokenise: Callable[[Sequence[str]], Sequence[int]], names: Sequence[str]):
        self.tokenise = tokenise
        self.prefix: tuple[str, ...] = ()
        self.remaining = tuple(names)
        self.lists = self._expand()

    def _expand(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """Tokenises lists by order of names, at least one for every choice of the next name."""
        lists = {}
        for name in self.remaining:
            others = [other for other in self.remaining if other != name]
            for follower in {repr(other)[0]: other for other in others}.values():
                order = (*self.prefix, name, follower, *(other for other in others if other != follower))
                lists[order] = tuple(self.tokenise(order))
            if not others:
                lists[*self.prefix, name] = tuple(self.tokenise((*self.prefix, name)))
        return lists

    def allowed(self, written: Sequence[int]) -> list[int]:
        """Returns the tokens that may follow what is written; none after the end of the turn.

        Args:
            written: Token ids so far, each of which was allowed.
        """
        written = tuple(written)
        self._filter(written)
        while len(self.remaining) > 1:
            position = len(self.prefix)
            next_names = {order[position] for order in self.lists}
            if len(next_names) > 1:
                break
            # The next name is decided: expand what may come after it.
            previous = self.lists
            (name,) = next_names
            self.prefix = (*self.prefix, name)
            self.remaining = tuple(other for other in self.remaining if other != name)
            self.lists = self._expand()
            self._filter(written)
            self.lists = self.lists or previous
        return sorted({tokens[len(written)] for tokens in self.lists.values() if len(tokens) > len(written)})

    def _filter(self, written: tuple[int, ...]) -> None:
        """Drops the lists that do not begin with what is written."""
        count = len(written)
        self.lists = {order: tokens for order, tokens in self.lists.items() if tokens[:count] == written}
