"""Grammar of the paper's list, for servers that decode under a grammar: every permutation of the candidates, once."""

from __future__ import annotations

import json
from collections.abc import Sequence

MAX_NAMES = 8
"""Most names of a grammar: it has a rule for every subset of them."""


def permutation_grammar(items: Sequence[str]) -> str:
    """Writes the grammar of a list that holds every item exactly once, in any order.

    It is in GBNF, which vLLM, SGLang and llama.cpp read. The rule ``s5`` matches the items of the bits of 5, in any
    order.

    Args:
        items: 1 to 8 items as they are written, quotes included.
    """
    count = len(items)
    rules = [f'root ::= "[" s{2**count - 1} "]"']
    rules += [f"n{index} ::= {json.dumps(item, ensure_ascii=False)}" for index, item in enumerate(items)]
    for subset in range(2**count - 1, 0, -1):
        members = [index for index in range(count) if subset >> index & 1]
        rests = {index: subset & ~(1 << index) for index in members}
        options = [f'n{index} ", " s{rest}' if rest else f"n{index}" for index, rest in rests.items()]
        rules.append(f"s{subset} ::= {' | '.join(options)}")
    return "\n".join(rules) + "\n"
