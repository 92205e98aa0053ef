"""``python -m data_prep.memory build|import|add|remove|check FOLDER …``: a memory kept as files.

    python -m data_prep.memory build mem recipe=ranker_lora
    python -m data_prep.memory add mem "name=Manul" manul-1.jpg manuls/
    python -m data_prep.memory check mem k=5

build FOLDER recipe=NAME [part=test_memory] [key.sub=value …]
    embeds a part of the recipe's data set into FOLDER/images and FOLDER/names
import FOLDER index=FILE labels=FILE [classnames=FILE] recipe=NAME [key.sub=value …]
    takes a memory of RAR's released code; give the encoder that made it, as retriever.model=ViT-B-16
    retriever.pretrained=openai for the released ones
add FOLDER name=CLASS [IMAGE or FOLDER OF IMAGES …]
    adds a class, or images to a class that is there; nothing is trained, and only the new is embedded
remove FOLDER name=CLASS
    removes a class
check FOLDER [k=5] [sample=1000]
    compares every file with its checksum, and prints recall@k of each index against exact search on a sample of its
    entries, with the queries/s of both

A folder changes whole or not at all, and commands that change it at once do so one after another.
"""

from __future__ import annotations

import sys

from data_prep.core.command import run_command


def main(arguments: list[str]) -> None:
    """Hands the command line on, so that ``--help`` need not import the libraries."""
    from data_prep.memory.commands import main as run

    run(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
