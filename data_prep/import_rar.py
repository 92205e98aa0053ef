"""``python -m data_prep.import_rar FILE --images ROOT --to FOLDER``: converts RAR's native JSON into shards.

    python -m data_prep.import_rar rar.json --images images --to shards
    python -m rar_train.fit recipe=ranker_lora mining.shards=shards

Candidates keep the order of the prompt, and the first name of the answer is the true class. Train on the
result with mining.shards=FOLDER. Records that cannot be read are counted by reason; the first of each kind is logged.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command


def main(arguments: list[str]) -> None:
    """Parses the command line and imports the file."""
    parser = CommandParser("data_prep.import_rar")
    parser.add_argument("file", type=Path)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--to", required=True, type=Path)
    args = parser.parse_args(arguments)
    announce(f"import-rar: {args.file} into {args.to}")

    from data_prep.export.rar_import import import_rar

    import_rar(args.file, args.images, args.to)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
