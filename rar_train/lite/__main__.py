"""``python -m rar_train.lite --out FOLDER``: builds the lite models from weights in Python packages, without a hub.

    python -m rar_train.lite --out models
    python -m rar_train.lite --out models-224 --clip-pixels 224 --mllm-pixels 224 --stage 3

Writes FOLDER/lite-clip, which recipe=retriever_lite tunes, and FOLDER/lite-mllm, which recipe=mllm_lite trains; both
need that training before use. Existing models are reused. Needs the packages that ``make lite`` installs.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> None:
    """Reads the command line and builds the models."""
    parser = CommandParser("rar_train.lite")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clip-pixels", type=int, default=160)
    parser.add_argument("--mllm-pixels", type=int, default=160)
    parser.add_argument("--stage", type=int, choices=(2, 3, 4), default=4)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--dictionary", choices=("training", "imagenet"), default="training")
    args = parser.parse_args(arguments)
    announce(f"lite: models into {args.out}")

    from rar_train.lite.clip import make_lite_clip
    from rar_train.lite.mllm import make_lite_mllm

    clip, mllm = args.out / "lite-clip", args.out / "lite-mllm"
    clip_settings = {"pixels": args.clip_pixels}
    mllm_settings = {"pixels": args.mllm_pixels, "stage": args.stage, "tokens": args.tokens}
    mllm_settings |= {"slots": args.slots, "dictionary": args.dictionary}
    for make, folder, settings in ((make_lite_clip, clip, clip_settings), (make_lite_mllm, mllm, mllm_settings)):
        if _is_complete(folder, settings):
            log.info("lite: reusing %s", folder)
            continue
        start = time.monotonic()
        make(folder, **settings)
        log.info("lite: built %s in %.0f s", folder, time.monotonic() - start)


def _is_complete(folder: Path, settings: dict) -> bool:
    """Returns whether a folder has an intact model with these settings."""
    from data_prep.core.errors import UserError
    from data_prep.core.manifests import read_sealed_folder

    if not folder.exists():
        return False
    try:
        return settings.items() <= read_sealed_folder(folder, "rebuilding it").items()
    except UserError as error:
        log.warning("lite: %s", error)
        return False


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
