"""``python -m data_prep.memory build|import|add|remove|list|search|check FOLDER …``: manages a class memory on disk.

    python -m data_prep.memory build mem recipe=ranker_lora
    python -m data_prep.memory add mem "name=Manul" manul-1.jpg manuls/
    python -m data_prep.memory search mem photo.jpg
    python -m data_prep.memory check mem k=5
    python -m data_prep.memory compare ViT-B-16,openai ViT-B-16-SigLIP2,webli recipe=ranker_lora_qwen2_5_vl_7b

build FOLDER recipe=NAME [part=test_memory] [key.sub=value …]
    embeds a part of the recipe's data set into FOLDER/images and FOLDER/names
import FOLDER index=FILE labels=FILE [classnames=FILE] recipe=NAME [key.sub=value …]
    imports a memory of RAR's released code; give the encoder that made it: retriever.model=ViT-B-16
    retriever.pretrained=openai for the released ones
add FOLDER name=CLASS [IMAGE or FOLDER OF IMAGES …]
    adds a class, or images to an existing class; nothing is trained, and only new images and names are embedded
remove FOLDER name=CLASS
    removes a class
list FOLDER
    prints the number of images and the name of each class
search FOLDER IMAGE or FOLDER OF IMAGES … [k=5] [source=image|name|fused] [key.sub=value …]
    prints the k most similar classes of each image, with the retriever's scores; no ranker is run
check FOLDER [k=5] [sample=1000]
    verifies the checksum of every file, and prints recall@k of each index against exact search on a sample of its
    entries, with the queries/s of both
compare MODEL [MODEL …] recipe=NAME [key.sub=value …]
    prints recall@1, 5 and 10 of encoders on the recipe's validation images: by names, by images at eval.shots, and by
    both, with dimension and images/s. MODEL is retriever.model, or MODEL,PRETRAINED or MODEL,PRETRAINED,TAG;
    IMAGES+NAMES is a pair, with retriever.name_model after the plus

What a Recognizer saved, the demo keeps (--keep) and the service keeps (--memory) are such folders too.
Changes to a folder are atomic, and commands that change it at the same time run one after another.
"""

from __future__ import annotations

import sys

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command


def main(arguments: list[str]) -> None:
    """Checks the command line and runs the command."""
    parser = CommandParser("data_prep.memory")
    parser.add_argument("command", choices=("build", "import", "add", "remove", "list", "search", "check", "compare"))
    parser.add_argument("folder", metavar="folder|model")
    parser.add_settings("words", checked=False)
    args = parser.parse_args(arguments)
    announce(f"memory: {args.command} {args.folder}")

    from data_prep.memory.commands import main as run

    run(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
