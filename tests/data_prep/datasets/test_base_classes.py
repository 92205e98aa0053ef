"""``data.tune_classes=base``: tuned parts have the first half of the classes, in every layout that shares them."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest
from webdataset import TarWriter

from data_prep.core.errors import UserError
from data_prep.datasets.coop import LAYOUTS
from data_prep.mining.pipeline import build
from data_prep.mining.shards import ShardedExamples
from data_prep.reading.dataset import PARTS
from data_prep.settings import DataArgs
from data_prep.settings.loading import load_recipe

CLASSES = ("ash", "birch", "cedar", "dogwood", "elm")
BASE = ("ash", "birch", "cedar")
SPLITS = {"train": 3, "val": 1, "test": 2}


@pytest.fixture
def images(tmp_path, draw_picture):
    """Draws images of each class by split; yields split, class and file."""
    found = []
    for split, count in SPLITS.items():
        for label, name in enumerate(CLASSES):
            for n in range(count):
                path = tmp_path / "data" / split / name / f"{split}{label}{n}.png"
                found.append((split, name, draw_picture(path, len(found))))
    return found


def write_coop(root, images):
    base = root / "caltech-101"
    (base / "101_ObjectCategories").mkdir(parents=True)
    split: dict[str, list] = {part: [] for part in SPLITS}
    for part, name, path in images:
        path.rename(base / "101_ObjectCategories" / path.name)
        split[part].append([path.name, CLASSES.index(name), name])
    (base / LAYOUTS["caltech101"].split).write_text(json.dumps(split))
    return "caltech101", root


def write_table(root, images):
    with open(root / "samples.csv", "w", newline="") as file:
        rows = [(path.relative_to(root).as_posix(), name, part) for part, name, path in images]
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return "folder", root / "samples.csv"


def write_metadata(root, images):
    for part in SPLITS:
        with open(root / part / "metadata.csv", "w", newline="") as file:
            rows = [(path.relative_to(root / part).as_posix(), name) for split, name, path in images if split == part]
            csv.writer(file).writerows([("file_name", "label"), *rows])
    return "imagefolder", root


def write_shards(root, images):
    target = root.parent / "shards"
    target.mkdir()
    for part in SPLITS:
        with TarWriter(str(target / f"{part}-000.tar")) as writer:
            for split, name, path in images:
                if split == part:
                    meta = json.dumps({"label": name}).encode()
                    writer.write({"__key__": path.stem, "png": path.read_bytes(), "json": meta})
    return "webdataset", target


def write_parquet(root, images):
    target = root.parent / "parquet" / "data"
    target.mkdir(parents=True)
    for part in SPLITS:
        rows = [(name, path) for split, name, path in images if split == part]
        cells = [{"bytes": path.read_bytes(), "path": path.name} for _, path in rows]
        table = pyarrow.table({"image": cells, "label": [CLASSES.index(name) for name, _ in rows]})
        features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pyarrow.parquet.write_table(table, target / f"{part}-00000-of-00001.parquet")
    return "parquet", target.parent


WRITERS = {
    "coop": write_coop,
    "folders": lambda root, images: ("folder", root),
    "table": write_table,
    "imagefolder": write_metadata,
    "webdataset": write_shards,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_tuned_parts_have_base_classes_alone_and_evaluated_parts_all(layout, images, read_named, tmp_path):
    name, root = WRITERS[layout](tmp_path / "data", images)
    whole = read_named(name, root)
    limited = read_named(name, root, tune_classes="base")
    assert limited.names == whole.names == CLASSES
    for part in PARTS:
        classes = {limited.names[label] for label in limited.labels(part)}
        assert classes == set(CLASSES if part.startswith("test") else BASE), part
        kept = [sample for sample in whole.parts[part] if sample.label in limited.labels(part)]
        assert limited.parts[part] == kept


def test_examples_are_mined_of_base_classes_alone(images, tmp_path):
    root, cache = tmp_path / "data", tmp_path / "cache"
    settings = [f"data.root={root}", "data.tune_classes=base", "mining.k=3", "eval.shots=[2]", f"cache={cache}"]
    for folder in build(load_recipe(["recipe=ranker_lora", *settings])):
        examples = ShardedExamples(folder)
        names = {candidate.name for i in range(len(examples)) for candidate in examples[i][0].candidates}
        assert names == set(BASE)


def test_armory_has_no_classes_in_common_between_its_parts():
    with pytest.raises(UserError, match=r"data\.tune_classes=base: does not apply to armory.*different classes"):
        DataArgs(tune_classes="base")
