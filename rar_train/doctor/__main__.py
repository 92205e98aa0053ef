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
import shlex
import sys
from dataclasses import asdict

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, as_called, run_command


def main(arguments: list[str]) -> None:
    """Reads the command line, runs the checks and prints their findings."""
    parser = CommandParser("rar_train.doctor")
    parser.add_argument("--read-data", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_settings(checked=False)  # a wrong recipe is one of the findings
    args = parser.parse_args(arguments)
    announce(f"doctor: {' and '.join(['this machine', *[shlex.join(args.settings)] * bool(args.settings)])}")

    from rar_train.doctor.findings import print_findings
    from rar_train.doctor.machine import machine_findings
    from rar_train.doctor.recipe import recipe_findings, resolve_recipe

    recipe, findings = resolve_recipe(args.settings)
    findings += machine_findings(recipe)
    if recipe:
        findings += recipe_findings(recipe, args.read_data)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print_findings(findings)
    if any(finding.status == "failure" for finding in findings):
        sys.exit(1)
    if recipe and not args.json:
        print(as_called(f"next: python -m rar_train.fit {shlex.join(args.settings)}"))


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
