"""Import of memories of RAR's released code: FAISS files, written as its notebooks write them."""

from __future__ import annotations

import re
import tempfile
from importlib import import_module
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.embedding.encoder import embed_images
from data_prep.memory import faiss_vectors
from data_prep.memory.commands import main
from data_prep.memory.faiss_vectors import stored_vectors, vectors_or_fault
from data_prep.memory.import_index import FLOAT16, names_by_folder, read_labels, read_names, unit_vectors
from data_prep.memory.stored import StoredMemory
from data_prep.settings import RetrieverArgs

CLASSES = ["Basset_Hound", "Boxer", "Egyptian_Mau", "Pug"]


def write_index(path: Path, vectors: np.ndarray) -> Path:
    """Writes an index as RAR's notebooks do: unit vectors rounded to float16, in an HNSW graph with M = 64."""
    half = torch.from_numpy(vectors).half()
    half /= half.norm(dim=-1, keepdim=True)
    index = faiss.IndexHNSWFlat(vectors.shape[1], 64, faiss.METRIC_INNER_PRODUCT)
    index.add(half.float().numpy())
    faiss.write_index(index, str(path))
    return path


def label_lines(labels: list[int]) -> list[str]:
    """Returns lines as RAR's notebooks write them: each image's path and label."""
    return [
        f"/mnt/it/images_discovery_all_3/{label:03d}.{CLASSES[label]}/{n} a.jpg {label}\n"
        for n, label in enumerate(labels)
    ]


@pytest.fixture(scope="module")
def vectors(encoder, armory, tmp_path_factory) -> np.ndarray:
    samples = armory.parts["test_memory"][:12]
    return embed_images(encoder, samples, RetrieverArgs(num_workers=0), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def released(vectors, tmp_path_factory) -> Path:
    """Twelve images of four classes, in a folder like RAR's database."""
    folder = tmp_path_factory.mktemp("pets4")
    write_index(folder / "pets4_database.index", vectors)
    (folder / "pets4_database.txt").write_text("".join(label_lines([n // 3 for n in range(12)])))
    (folder / "classnames.txt").write_text("\n".join(name.lower() for name in CLASSES))
    return folder


def arguments(released: Path, target: Path, *extra: str) -> list[str]:
    files = [f"index={released / 'pets4_database.index'}", f"labels={released / 'pets4_database.txt'}"]
    return ["import", str(target), *files, "recipe=ranker_lora", f"cache={target.parent / 'cache'}", *extra]


def test_a_released_memory_is_imported_checked_and_extended(released, vectors, tmp_path, draw_picture, capsys, caplog):
    caplog.set_level("INFO", "data_prep")
    main(arguments(released, tmp_path / "mem", f"classnames={released / 'classnames.txt'}"))
    assert re.search(
        r"memory: \d+\.\d % of the images are nearest to their own class's name \(chance level 25\.0 %\)", caplog.text
    )
    _, _, stored = StoredMemory.load(tmp_path / "mem", [])
    assert [entry.key for entry in stored.names.entries] == ["basset hound", "boxer", "egyptian mau", "pug"]
    assert stored.images.labels.tolist() == [n // 3 for n in range(12)]
    assert stored.images.metadata["imported"]["index"] == "pets4_database.index"
    imported = stored.images.vectors(range(12))
    assert np.abs(np.linalg.norm(imported, axis=1) - 1).max() < 1e-6
    assert np.abs(imported - vectors).max() < FLOAT16
    assert (stored.images.search(vectors, 1)[1].ravel() == np.arange(12)).all()
    main(["add", str(tmp_path / "mem"), "name=Manul", str(draw_picture(tmp_path / "manul.png", 1))])
    main(["remove", str(tmp_path / "mem"), "name=Egyptian  Mau"])
    capsys.readouterr()
    main(["check", str(tmp_path / "mem"), "k=2"])
    assert re.findall(r"(\w+): (\d+) entries", capsys.readouterr().out) == [("images", "10"), ("names", "4")]
    with pytest.raises(UserError, match="mem: exists; choose another folder"):
        main(arguments(released, tmp_path / "mem"))


def test_without_class_names_the_image_folders_name_the_classes():
    labels = [0, 0, 1, 2]
    paths = [line.rpartition(" ")[0] for line in label_lines(labels)]
    assert names_by_folder(paths, labels) == ["Basset Hound", "Boxer", "Egyptian Mau"]
    for image_paths, image_labels in (
        (["images/a.jpg", "images/b.jpg"], [0, 1]),  # all in one folder
        (["x/a.jpg", "y/b.jpg"], [0, 2]),  # a label without images
        (["x/a.jpg", "y/b.jpg"], [0, 10**12]),
        (["x/a.jpg", "y/b.jpg"], [0, 0]),
        (["a.jpg"], [0]),
    ):
        with pytest.raises(UserError, match="give classnames=FILE"):
            names_by_folder(image_paths, image_labels)


def test_labels_are_read_in_both_forms_and_after_paths_with_spaces(tmp_path):
    (tmp_path / "a.txt").write_text(
        "\ufeff/d/a b.jpg 3\n/d/c.jpg {'label': 12, 'classname': 'DC-10'}\n/d/e.jpg {'label': 0}\n\n"
    )
    assert read_labels(tmp_path / "a.txt") == (["/d/a b.jpg", "/d/c.jpg", "/d/e.jpg"], [3, 12, 0])


paths = st.text(st.sampled_from("ab 1{}':,/."), min_size=1).filter(lambda path: path == path.strip())


@given(st.lists(st.tuples(paths, st.integers(0, 10**6), st.booleans()), min_size=1))
def test_any_path_and_label_can_be_read_back(rows):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "list.txt"
        file.write_text("".join(f"{path} {{'label': {n}}}\n" if named else f"{path} {n}\n" for path, n, named in rows))
        assert read_labels(file) == ([path for path, _, _ in rows], [n for _, n, _ in rows])


@pytest.mark.parametrize(
    ("read", "data", "message"),
    [
        (read_labels, b"a.jpg 1\nb.jpg\n", "line 2: 'b.jpg' is not PATH LABEL"),
        (read_labels, b"a.jpg -1\n", "line 1: 'a.jpg -1' is not PATH LABEL"),
        (read_labels, b"a.jpg " + b"9" * 5000, "line 1: 'a.jpg 9+' is not PATH LABEL"),
        (read_names, "\u200b\ndog\n".encode(), "line 1: empty"),
        (read_labels, b"", "line 1: '' is not PATH LABEL"),
        (read_labels, b"PK\x03\x04\x80\x02}q\x00", "Pickles .* are not loaded"),
        (read_labels, None, "no such file"),
        (read_names, b"cat\n\ndog\n", "line 2: empty; the class name of label 1 is missing"),
        (read_names, b"\xff\xfe", "not a text file; give the .txt with a class name for each label"),
    ],
)
def test_malformed_lists_are_refused_with_the_line_number(read, data, message, tmp_path):
    if data is not None:
        (tmp_path / "list.txt").write_bytes(data)
    with pytest.raises(UserError, match=rf"list\.txt.*{message}"):
        read(tmp_path / "list.txt")


def test_vectors_with_errors_larger_than_float16_rounding_are_refused(tmp_path, vectors, monkeypatch):
    for scale in (1 + 2 * FLOAT16, 0, np.nan):
        changed = vectors * np.where(np.arange(12)[:, None] == 3, np.float32(scale), np.float32(1))
        monkeypatch.setattr("data_prep.memory.import_index.stored_vectors", lambda path, vectors=changed: vectors)
        with pytest.raises(UserError, match=r"a\.index: 1 of 12 vectors are not of unit length \(vector 3"):
            unit_vectors(tmp_path / "a.index")


def test_files_that_do_not_belong_together_are_refused(released, vectors, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.memory.import_index.stored_vectors", lambda path: vectors)
    few = tmp_path / "few.txt"
    few.write_text("".join(label_lines([0, 1, 2])))
    with pytest.raises(UserError, match=r"few\.txt: 3 lines for the 12 vectors of .*pets4_database\.index"):
        main([*arguments(released, tmp_path / "mem"), f"labels={few}"])
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(
        UserError, match=r"pets4_database\.txt, line 7: a label beyond the 2 class names of .*names\.txt"
    ):
        main([*arguments(released, tmp_path / "mem"), f"classnames={tmp_path / 'names.txt'}"])
    monkeypatch.setattr("data_prep.memory.import_index.stored_vectors", lambda path: np.eye(12, 512, dtype=np.float32))
    message = r"vectors have 512 dimensions, but those of nano-clip-.*model=ViT-B-16 retriever\.pretrained=openai"
    with pytest.raises(UserError, match=message):
        main(arguments(released, tmp_path / "mem"))
    with pytest.raises(UserError, match="give labels=FILE"):
        main(["import", str(tmp_path / "mem"), "index=x", "recipe=ranker_lora"])
    assert not (tmp_path / "mem").exists()


def test_an_error_of_an_unreadable_index_names_the_file(released, tmp_path):
    original = (released / "pets4_database.index").read_bytes()
    huge_count = original[:40] + b"\xff" * 6 + original[46:]
    for data in (original[: len(original) // 2], huge_count, b"hello world, not an index"):
        (tmp_path / "bad.index").write_bytes(data)
        assert re.fullmatch(r"damaged, or not a FAISS index \(\w.*\)", vectors_or_fault(tmp_path / "bad.index"))
    faiss.write_index(faiss.index_factory(8, "IDMap,Flat"), str(tmp_path / "other.index"))
    assert vectors_or_fault(tmp_path / "other.index").startswith("a FAISS index of type IndexIDMap; an HNSW graph")
    with pytest.raises(UserError, match=r"bad\.index: damaged, or not a FAISS index"):
        stored_vectors(tmp_path / "bad.index")
    with pytest.raises(UserError, match=r"missing\.index: no such file"):
        stored_vectors(tmp_path / "missing.index")


def test_an_error_of_an_index_that_crashes_faiss_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "crashing.py").write_text("import os\ndef crash(path):\n    os.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(faiss_vectors, "_with_limits", import_module("crashing").crash)
    with pytest.raises(UserError, match=r"crashing\.py: damaged; FAISS crashed when reading it"):
        stored_vectors(tmp_path / "crashing.py")
