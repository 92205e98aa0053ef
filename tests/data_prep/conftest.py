"""Fixtures shared by several test files: the embedded encoder, a small armory, and images on disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.datasets import read_dataset
from data_prep.embedding.encoder import load_encoder
from data_prep.reading.dataset import PARTS
from data_prep.settings import ArmoryArgs, DataArgs, RetrieverArgs


@pytest.fixture(scope="session")
def encoder():
    return load_encoder(RetrieverArgs())


@pytest.fixture(scope="session")
def small_armory_args():
    sizes = ArmoryArgs(8, 8, 8, train_images=3, memory_images=4, query_images=2, size=48)
    return DataArgs(armory=sizes)


@pytest.fixture(scope="session")
def armory(small_armory_args, tmp_path_factory):
    return read_dataset(small_armory_args, tmp_path_factory.mktemp("armory"), PARTS)


@pytest.fixture(scope="session")
def draw_picture():
    """Writes an image of random blocks; a different seed gives different bytes."""

    def draw(path: Path, seed: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(blocks).resize((24, 24), Image.NEAREST).save(path)
        return path

    return draw
