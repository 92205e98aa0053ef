"""``python -m rar_train.doctor [recipe=NAME] [key.sub=value …] [--read-data] [--json]``: checks before a run.

    python -m rar_train.doctor
    python -m rar_train.doctor recipe=ranker_lora_qwen2_5_vl_7b data.root=photographs
    python -m rar_train.doctor recipe=ranker_lora --json

Checks the machine (packages, GPU, DeepSpeed, compiler, disk, Weights & Biases), and with a recipe also whether it can
run here: data, retriever, ranker, candidate letters, prompt lengths, memory. Each check reports ok, warning, failure or
not checked, and what to do. Nothing is downloaded, trained or written. --read-data decodes every image as training
would, and writes the results to the recipe's cache. --json prints the findings as JSON.
Exit status: 0 without failures, 1 with.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from data_prep.core.command import run_command

FLAGS = ("--read-data", "--json")


def main(arguments: list[str]) -> None:
    """Reads the command line, runs the checks and prints their findings."""
    from rar_train.doctor.findings import print_findings
    from rar_train.doctor.machine import machine_findings
    from rar_train.doctor.recipe import recipe_findings, resolve_recipe

    settings = [argument for argument in arguments if argument not in FLAGS]
    recipe, findings = resolve_recipe(settings)
    findings += machine_findings(recipe)
    if recipe:
        findings += recipe_findings(recipe, "--read-data" in arguments)
    if "--json" in arguments:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print_findings(findings)
    if any(finding.status == "failure" for finding in findings):
        sys.exit(1)


def console() -> None:
    """Runs the command as a console script."""
    sys.exit(run_command(main, __doc__))


if __name__ == "__main__":
    console()
