"""``python -m data_prep.export --format FORMAT --to FOLDER recipe=NAME [key.sub=value …]``

    python -m data_prep.export --format llava --to exported recipe=ranker_lora
    python -m data_prep.export --format rar --to exported --part val recipe=ranker_lora mining.k=5

Writes a recipe's ranking examples in the format of another trainer: rar, llava, sharegpt, openai
(both for LLaMA-Factory), swift, or trl; for rerankers swift_reranker, sentence_transformers (lists) or
sentence_transformers_pairs; for training by reward or preference swift_grpo, trl_grpo or trl_dpo.
Examples that are not in the cache are built first.

--part val           export the validation examples instead of the training examples
--from FOLDER        export a folder of shards instead of the recipe's examples
--order retriever    keep candidates as retrieved instead of shuffled (as in the released data)
--expert WORDS       rar: the kind of expert in the prompt, such as "aircraft classification"
--max-tokens N       skip, and count, records whose texts have more of the ranker's tokens
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command
from data_prep.export.formats import FORMATS
from data_prep.settings.loading import load_recipe


def main(arguments: list[str]) -> None:
    """Parses the command line and exports the examples."""
    parser = CommandParser("data_prep.export")
    parser.add_argument("--format", required=True, choices=tuple(FORMATS))
    parser.add_argument("--to", required=True, type=Path)
    parser.add_argument("--part", default="train", choices=("train", "val"))
    parser.add_argument("--from", dest="shards", type=Path)
    parser.add_argument("--order", default="shuffled", choices=("shuffled", "retriever"))
    parser.add_argument("--expert", default="classification")
    parser.add_argument("--max-tokens", type=int)
    parser.add_settings()
    args = parser.parse_args(arguments)
    recipe = load_recipe(args.settings)
    announce(f"export-data: {args.format} into {args.to}")

    from data_prep.export.writing import export
    from data_prep.mining.pipeline import build
    from data_prep.prompting.prompt_lengths import TokenCounter

    shards = args.shards or build(recipe)[("train", "val").index(args.part)]
    token_limit = (TokenCounter(recipe.ranker.model), args.max_tokens) if args.max_tokens else None
    export(shards, args.to, args.format, recipe.mining.target, recipe.seed, args.order, args.expert, token_limit)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
