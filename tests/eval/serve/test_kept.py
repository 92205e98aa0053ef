"""The classes of a service: what is written where."""

from __future__ import annotations

from pathlib import Path

from data_prep.embedding.image_inputs import open_input
from eval.recognizer.kept import KeptClasses
from eval.serve.server import Options, load_recognizer
from tests.eval.serve.conftest import NAMES


def content(folder: Path) -> dict[Path, bytes]:
    """Returns the content of each file of a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_kept_memory_given_as_classes_stays_as_it_is(finished, recognizer, images, tmp_path):
    recognizer.remember(NAMES[:1])
    for name, files in zip(NAMES[:3], images, strict=False):
        recognizer.memory.add(name, files[:2])
    kept, new = tmp_path / "kept", tmp_path / "new"
    recognizer.memory.save(kept)
    before = content(kept)
    options = Options(finished, ("trainer.accelerator=cpu",), classes=kept, memory=new)
    new.mkdir()  # as the service's lock does
    classes = KeptClasses(load_recognizer(options), new)
    assert classes.add(NAMES[4], [open_input(images[4][0], "a.png")]).new is True
    classes.remove(NAMES[0])
    assert content(kept) == before
    wanted = {NAMES[1]: 2, NAMES[2]: 2, NAMES[4]: 1}
    again = KeptClasses(load_recognizer(options), new)
    assert again.list() == dict(sorted(wanted.items()))
    written = content(new)
    again.add(NAMES[5], [])
    assert content(kept) == before and content(new) != written
