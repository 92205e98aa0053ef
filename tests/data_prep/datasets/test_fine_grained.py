"""The fine-grained benchmarks in their archives' layouts, written here with scipy and as text files."""

import json
import shutil

import numpy as np
import pytest
from scipy.io import savemat

from data_prep.datasets.fine_grained import CARS, CUB, DOGS, FLOWERS, PETS


def cells(values) -> np.ndarray:
    """Returns a MATLAB cell array."""
    array = np.empty((len(values), 1), object)
    array[:, 0] = values
    return array


@pytest.fixture
def draw(draw_picture):
    """Writes an image at each path below a folder."""

    def draw_all(base, paths):
        for seed, path in enumerate(paths):
            draw_picture(base / path, seed)

    return draw_all


@pytest.fixture
def cub(tmp_path, draw):
    base = tmp_path / "data" / "CUB_200_2011"
    classes = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    paths = [f"{name}/{name[4:]}_{n:04d}_7{n}.jpg" for name in classes for n in range(6)]
    draw(base / "images", paths)
    (base / "classes.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(classes, 1)))
    (base / "images.txt").write_text("".join(f"{n} {path}\n" for n, path in enumerate(paths, 1)))
    labels = "".join(f"{n} {1 + (n > 6)}\n" for n in range(1, 13))
    (base / "image_class_labels.txt").write_text(labels)
    (base / "train_test_split.txt").write_text("".join(f"{n} {int(n % 3 > 0)}\n" for n in range(1, 13)))
    return base


@pytest.fixture
def cars(tmp_path, draw):
    base = tmp_path / "data" / "stanford_cars"
    names = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012")
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": cells(names).T})
    for split, path, count in (
        ("train", "devkit/cars_train_annos.mat", 3),
        ("test", "cars_test_annos_withlabels.mat", 1),
    ):
        kinds = [("bbox_x1", object), ("bbox_x2", object), ("class", object), ("fname", object)]
        records = np.empty((1, 3 * count), kinds)
        for n in range(3 * count):
            records[0, n] = (39, 116, n // count + 1, f"{n + 1:05d}.jpg")
        draw(base / f"cars_{split}", [f"{n + 1:05d}.jpg" for n in range(3 * count)])
        savemat(base / path, {"annotations": records})
    return base


@pytest.fixture
def dogs(tmp_path, draw):
    base = tmp_path / "data" / "stanford_dogs"
    folders = ("n02085620-Chihuahua", "n02091635-otterhound", "n02107683-Bernese_mountain_dog")
    for split, count in (("train", 3), ("test", 2)):
        paths = [f"{name}/{name.split('-')[0]}_{split}{n}.jpg" for name in folders for n in range(count)]
        draw(base / "Images", paths)
        labels = np.repeat([1, 2, 3], count).astype(float)[:, None]
        savemat(base / f"{split}_list.mat", {"file_list": cells(paths), "labels": labels})
    return base


@pytest.fixture
def flowers(tmp_path, draw):
    base = tmp_path / "data" / "flowers-102"
    draw(base / "jpg", [f"image_{n:05d}.jpg" for n in range(1, 13)])
    labels = np.array([[1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]], np.uint8)
    savemat(base / "imagelabels.mat", {"labels": labels})
    sets = {"trnid": [[1, 2, 6, 5, 9, 10]], "valid": [[3, 7, 11]], "tstid": [[12, 8, 4]]}
    savemat(base / "setid.mat", {name: np.array(ids, np.uint16) for name, ids in sets.items()})
    return base


@pytest.fixture
def pets(tmp_path, draw):
    base = tmp_path / "data" / "oxford-iiit-pet"
    breeds = {"Abyssinian": 1, "american_bulldog": 2, "Bengal": 6}
    (base / "annotations").mkdir(parents=True)
    for split, count in (("trainval", 3), ("test", 1)):
        stems = [(f"{breed}_{split == 'test':d}{n}", label) for breed, label in breeds.items() for n in range(count)]
        draw(base / "images", [f"{stem}.jpg" for stem, _ in stems])
        (base / "annotations" / f"{split}.txt").write_text("".join(f"{stem} {label} 1 1\n" for stem, label in stems))
    return base


EXPECTED = {
    "cub200": ("cub", ("Black footed Albatross", "Laysan Albatross"), {"test_memory": 8, "test": 4}),
    "cars196": (
        "cars",
        ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"),
        {"test_memory": 9, "test": 3},
    ),
    "dogs120": ("dogs", ("Chihuahua", "otterhound", "Bernese mountain dog"), {"test_memory": 9, "test": 6}),
    "pets37": ("pets", ("Abyssinian", "american bulldog", "Bengal"), {"test_memory": 9, "test": 3}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_official_splits_and_names_are_read(request, read_named, name):
    fixture, names, counts = EXPECTED[name]
    base = request.getfixturevalue(fixture)
    dataset = read_named(name, base.parent)
    assert dataset.names == names
    assert {part: len(dataset.parts[part]) for part in counts} == counts
    assert read_named(name, base) == dataset
    # val is held out of train: one image of each class here, or a quarter.
    assert {s.label for s in dataset.parts["val"]} == set(range(len(names)))
    assert not {s.key for s in dataset.parts["val"]} & {s.key for s in dataset.parts["val_memory"]}


def test_a_birds_label_and_split_are_looked_up_by_its_image_number(cub, read_named):
    dataset = read_named("cub200", cub)
    test = [(s.path.split("images/")[1], s.label) for s in dataset.parts["test"]]
    assert test == [
        ("001.Black_footed_Albatross/Black_footed_Albatross_0002_72.jpg", 0),
        ("001.Black_footed_Albatross/Black_footed_Albatross_0005_75.jpg", 0),
        ("002.Laysan_Albatross/Laysan_Albatross_0002_72.jpg", 1),
        ("002.Laysan_Albatross/Laysan_Albatross_0005_75.jpg", 1),
    ]


def test_each_image_has_the_right_class(cars, pets, dogs, read_named):
    assert [(s.path[-9:], s.label) for s in read_named("cars196", cars).parts["test"]] == [
        ("00001.jpg", 0),
        ("00002.jpg", 1),
        ("00003.jpg", 2),
    ]
    for name, base in (("pets37", pets), ("dogs120", dogs)):
        dataset = read_named(name, base)
        for sample in dataset.parts["test"]:
            assert dataset.names[sample.label].replace(" ", "_") in sample.path


def test_flowers_without_cat_to_name_have_torchvisions_names(flowers, read_named):
    dataset = read_named("flowers102", flowers, on_small_class="skip")
    assert dataset.names[:3] == ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")
    assert len(dataset.names) == 102


def test_flowers_keep_the_order_of_setid(flowers, read_named):
    (flowers / "cat_to_name.json").write_text(json.dumps({"3": "canterbury_bells", "1": "primrose", "2": "orchid"}))
    dataset = read_named("flowers102", flowers)
    assert dataset.names == ("primrose", "orchid", "canterbury bells")
    test = [(s.path[-9:-4], s.label) for s in dataset.parts["test"]]
    assert test == [("00012", 2), ("00008", 1), ("00004", 0)]
    assert [len(dataset.parts[part]) for part in ("test_memory", "train", "val")] == [6, 6, 3]


MISSING = [
    ("cub200", "cub", CUB, ("classes.txt", "image_class_labels.txt", "train_test_split.txt", "images.txt")),
    (
        "cars196",
        "cars",
        CARS,
        ("devkit/cars_meta.mat", "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"),
    ),
    ("dogs120", "dogs", DOGS, ("test_list.mat", "train_list.mat")),
    ("flowers102", "flowers", FLOWERS, ("imagelabels.mat", "setid.mat")),
    ("pets37", "pets", PETS, ("annotations/trainval.txt", "annotations/test.txt")),
]


@pytest.mark.parametrize(("name", "fixture", "source", "files"), MISSING, ids=[row[0] for row in MISSING])
def test_a_missing_or_damaged_file_or_image_raises_with_its_path_and_source(
    request, error_message, tmp_path, name, fixture, source, files
):
    base = request.getfixturevalue(fixture)
    for file in files:
        intact = (base / file).read_bytes()
        (base / file).write_bytes(b"\xff\xfe damaged")
        message = error_message(name, base)
        assert str(base / file) in message
        assert source in message
        (base / file).unlink()
        message = error_message(name, base)
        assert str(base / file) in message
        assert source in message
        (base / file).write_bytes(intact)
    image = sorted(base.rglob("*.jpg"))[0]
    image.write_bytes(b"not an image")
    message = error_message(name, base)
    assert f"{image}: not readable as an image" in message
    assert source in message
    image.unlink()
    assert f"{image}: no such image" in error_message(name, base)
    shutil.rmtree(base)
    assert source in error_message(name, tmp_path / "data")
    assert "needs data.root=FOLDER" in error_message(name, "")


def test_inconsistent_lists_raise_with_the_cause(cub, cars, dogs, flowers, error_message):
    (cub / "image_class_labels.txt").write_text("".join(f"{n} 3\n" for n in range(1, 13)))
    assert "class 3 is not in 1..2" in error_message("cub200", cub)
    (cub / "image_class_labels.txt").write_text("1 1\n")
    assert "image 2 (001.Black_footed_Albatross/Black_footed_Albatross_0001_71.jpg) has no class" in error_message(
        "cub200", cub
    )
    savemat(cars / "devkit" / "cars_train_annos.mat", {"annotations": np.array([1, 2])})
    assert "records need fname and class" in error_message("cars196", cars)
    savemat(cars / "devkit" / "cars_meta.mat", {"names": cells(("a",))})
    assert "cars_meta.mat: has no variable class_names" in error_message("cars196", cars)
    paths = ["n1-a/1.jpg", "n2-b/1.jpg"]
    savemat(dogs / "train_list.mat", {"file_list": cells(paths), "labels": np.array([[1.0], [1.0]])})
    assert "label 1 is b and a" in error_message("dogs120", dogs)
    savemat(flowers / "setid.mat", {"trnid": [1], "valid": [2], "tstid": [13]})
    assert "imagelabels.mat has no image 13" in error_message("flowers102", flowers)
    (flowers / "cat_to_name.json").write_text('{"1": "a", "3": "c"}')
    assert "cat_to_name.json: should name each class by its number" in error_message("flowers102", flowers)


def test_a_breed_without_training_images_raises_with_its_name(pets, error_message):
    list_file = pets / "annotations" / "trainval.txt"
    lines = list_file.read_text().splitlines()
    list_file.write_text("\n".join(line for line in lines if not line.startswith("Bengal")))
    assert "1 of 3 classes of pets37 have no training images: Bengal" in error_message("pets37", pets)
