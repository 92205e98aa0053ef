"""Runs the commands of the README and the docs, in their order."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import call, shown
from tests.e2e.test_own_images import write_digits

ROOT = Path(__file__).parents[2]
PAGES = (
    "README",
    *(
        f"docs/{page}"
        for page in ("detection", "discovery", "examples", "labelling", "retrieval", "tracking", "training")
    ),
)
REPLACEMENTS = {
    "RUN": "runs/ranker_lora",
    "data.root=PATH": "data.root=digits",
    "FORMAT": "rar",
    "FOLDER": "out",
    "CLASSES": "digits",
    "NAME": "product",
    "rar.json": "out/rar.json",
    "ROOT": "out",
    "SHARDS": "shards",
    "photographs/": "digits/one",
}
# Words of commands that cannot run here: data sets, models and machines that are not available, the files made with
# those, and a page that is served until it is stopped.
UNAVAILABLE = (
    "DATA",
    "COCO",
    "COCO/val2017",
    "V3Det",
    "retriever.model=ViT-B-16",
    "recipe=ranker_lora_qwen2_5_vl_7b",
    "recipe=ranker_deepspeed_z2",
    "runs/mine",
    "eval.demo",
)


def cannot_run(words: list[str]) -> bool:
    return any(word == marker or word.endswith(f"={marker}") for word in words for marker in UNAVAILABLE)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, evaluated: Path, small, tmp_path: Path):
    write_digits(tmp_path / "digits", per_class=12)
    shutil.copytree(evaluated / "cache", tmp_path / "cache")
    shutil.copytree(evaluated / "run", tmp_path / "runs" / "ranker_lora", ignore=shutil.ignore_patterns("eval"))
    num_commands = 0
    for module, *arguments in shown(ROOT / f"{page}.md", REPLACEMENTS):
        if cannot_run([module, *arguments]):
            continue
        if any(word.startswith("recipe=") for word in arguments) and module != "rar_train.doctor":
            arguments += small
        arguments += ["discover.sentences=none"] if module == "eval.discover" else []
        call(tmp_path, module, *arguments)
        num_commands += 1
    assert num_commands
