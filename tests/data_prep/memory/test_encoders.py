"""Memories of encoders of other libraries: built, searched, and refused to another encoder."""

from __future__ import annotations

import shutil

import pytest

from data_prep.core.errors import UserError
from data_prep.memory.commands import main as memory
from data_prep.memory.stored import StoredMemory, count_classes
from tests.tiny_encoders import picture, write_open_clip, write_timm, write_transformers

CLASSES = ("lynx", "manul", "serval")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_timm(folder / "timm")
    for kind in ("siglip", "metaclip_2"):
        write_transformers(kind, folder / kind)
    clip = {f"open_clip-{kind}": write_open_clip(kind, folder / "open_clip" / kind) for kind in ("siglip2", "pe_core")}
    hub = {f"hf-{kind}": f"hf:{folder / kind}" for kind in ("siglip", "metaclip_2")}
    return clip | hub | {"timm": f"timm:{folder / 'timm'}"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for split, images in (("train", 4), ("val", 2), ("test", 2)):
        for number, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for index in range(images):
                seed = 100 * number + 10 * len(split) + index
                picture(seed).save(folder / split / name / f"{seed}.png")
    return folder


def settings(model: str, photographs, cache, *more: str) -> list[str]:
    data = ["data.name=folder", f"data.root={photographs}", f"cache={cache}", "trainer.accelerator=cpu"]
    return ["recipe=ranker_lora", *data, f"retriever.model={model}", *more]


def search(folder, image, capsys, *more: str) -> list[str]:
    """Returns the found classes of an image, best first."""
    capsys.readouterr()
    memory(["search", str(folder), str(image), "k=3", *more])
    found = capsys.readouterr().out.strip().partition(": ")[2].split(", ")
    return [item.rpartition(" ")[0] for item in found]


@pytest.mark.parametrize(
    ("images", "names"),
    [
        ("open_clip-siglip2", None),
        ("open_clip-pe_core", None),
        ("hf-siglip", None),
        ("hf-metaclip_2", None),
        ("timm", "hf-metaclip_2"),
        ("hf-siglip", "open_clip-pe_core"),
    ],
)
def test_a_memory_is_built_searched_extended_and_checked(images, names, models, photographs, tmp_path, capsys):
    folder = tmp_path / "memory"
    pair = (f"retriever.name_model={models[names]}",) if names else ()
    memory(["build", str(folder), *settings(models[images], photographs, tmp_path / "cache", *pair)])
    known = next((photographs / "train" / "manul").iterdir())
    assert search(folder, known, capsys, "source=image")[0] == "manul"
    for source in ("name", "fused"):
        assert set(search(folder, known, capsys, f"source={source}")) == set(CLASSES)
    added = tmp_path / "added.png"
    picture(999).save(added)
    memory(["add", str(folder), "name=ocelot", str(added)])
    assert search(folder, added, capsys, "source=image")[0] == "ocelot"
    assert "ocelot" in search(folder, added, capsys, "source=name", "k=4")
    memory(["check", str(folder)])
    printed = capsys.readouterr().out
    assert "images: 13 entries" in printed and "names: 4 entries" in printed
    assert count_classes(folder)["ocelot"] == 1


def test_a_memory_of_images_alone_lists_its_names_and_is_searched_by_images(models, photographs, tmp_path, capsys):
    folder = tmp_path / "memory"
    memory(["build", str(folder), *settings(models["timm"], photographs, tmp_path / "cache")])
    known = next((photographs / "train" / "manul").iterdir())
    assert search(folder, known, capsys)[0] == "manul"
    with pytest.raises(UserError, match=r"source=name: retriever\.model=timm:.* embeds images alone"):
        memory(["search", str(folder), str(known), "source=name"])
    with pytest.raises(UserError, match=r"give images of ocelot: .* embeds images alone"):
        memory(["add", str(folder), "name=ocelot"])
    added = tmp_path / "added.png"
    picture(999).save(added)
    memory(["add", str(folder), "name=ocelot", str(added)])
    assert search(folder, added, capsys)[0] == "ocelot"
    memory(["check", str(folder)])
    assert "names" not in capsys.readouterr().out
    assert sorted(count_classes(folder)) == ["lynx", "manul", "ocelot", "serval"]


def test_another_encoder_is_refused_on_either_side(models, photographs, tmp_path):
    folder, cache = tmp_path / "memory", tmp_path / "cache"
    pair = f"retriever.name_model={models['hf-metaclip_2']}"
    memory(["build", str(folder), *settings(models["timm"], photographs, cache, pair)])
    for change in (
        f"retriever.model={models['hf-metaclip_2']}",
        f"retriever.name_model={models['hf-siglip']}",
        "retriever.dtype=bfloat16",
    ):
        with pytest.raises(UserError, match=r"this memory was made with encoder .*, but .* is loaded"):
            StoredMemory.load(folder, [change])
    moved = shutil.copytree(models["hf-metaclip_2"].removeprefix("hf:"), tmp_path / "moved")
    StoredMemory.load(folder, [f"retriever.name_model=hf:{moved}"])
