"""``python -m eval.detection --ckpt RUN [--annotations FILE --images FOLDER [--detections FILE]] [--format lvis] …``

    python -m eval.detection --ckpt runs/ranker_lora
    python -m eval.detection --ckpt RUN --format lvis --annotations lvis_v1_val.json --images COCO --policy product

Classifies boxes by retrieving and ranking class names, and scores the detections by the data set's own rules. RUN is a
run's folder or one of its checkpoints. Without --annotations the boxes are those of armory's scenes, with unseen
classes of the split.

  --annotations FILE   annotation file of COCO, LVIS v1 or V3Det, as --format says (coco, lvis, v3det)
  --images FOLDER      folder that its image names are relative to: COCO's val2017, the folder of LVIS's train2017 and
                       val2017, or V3Det's
  --detections FILE    a detector's results (COCO-style JSON list), whose boxes are classified in place of the annotated
  --policy NAME        how a ranking becomes scores: clip_score_permuted, ranker_probability, product, geometric_mean,
                       reciprocal_rank, detector_score or retriever
  --split val          armory's validation classes instead of the test classes
  --mode letters       how the ranker ranks
  --name NAME          name of the folder of the results
  key.sub=value        any other setting, such as detection.nms_iou=1 eval.k=10 trainer.devices=2

Started by torchrun or srun, all processes rank. If killed and started again, it continues from the stored replies; with
another policy no model is run again. Writes results.json and detections-METHOD.json, in the data sets' result format,
into RUN/detection/DATA-MODE-POLICY; settings that differ from the run's own are added to the name, so that results of
other settings or models are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command
from data_prep.distributed.launch import run_on_first
from data_prep.settings import FORMATS, MODES, POLICIES
from data_prep.settings.loading import load_saved_recipe

_SHORT = {
    "annotations": "detection.annotations",
    "images": "detection.images",
    "detections": "detection.detections",
    "format": "detection.format",
    "policy": "detection.policy",
    "split": "eval.split",
    "mode": "ranker.mode",
}
_CHOICES = {"format": FORMATS, "policy": POLICIES, "split": ("test", "val"), "mode": MODES}


def main(arguments: list[str]) -> None:
    """Reads the command line, evaluates and prints the table."""
    parser = CommandParser("eval.detection")
    parser.add_argument("--ckpt", required=True)
    for option in _SHORT:
        parser.add_argument(f"--{option}", choices=_CHOICES.get(option))
    parser.add_argument("--name")
    parser.add_settings()
    args = vars(parser.parse_args(arguments))
    announce(f"detect: {args['ckpt']}")
    settings = [f"{key}={args[option]}" for option, key in _SHORT.items() if args[option] is not None]

    from eval.detection.evaluate import evaluate_detection, print_detection
    from rar_train.engine.run_folder import find_adapter

    adapter, run = find_adapter(Path(args["ckpt"]))
    recipe = load_saved_recipe(run / "recipe.yaml", [*args["settings"], *settings])
    run_on_first(lambda: print_detection(evaluate_detection(recipe, adapter, run, args["name"])), Path(recipe.cache))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
