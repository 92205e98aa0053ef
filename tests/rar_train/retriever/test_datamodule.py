"""The retriever's captions: the class names as the data set gives them."""

from __future__ import annotations

import torch

from data_prep.core.records import Sample
from data_prep.datasets import Dataset
from data_prep.embedding.encoder import load_encoder
from data_prep.settings import TuningArgs
from data_prep.settings.loading import load_recipe
from rar_train.retriever.datamodule import RetrieverData
from rar_train.retriever.views import Pixels


def test_captions_omit_the_numbers_that_distinguish_classes_of_the_same_name():
    recipe = load_recipe(["recipe=retriever_clip", "optim.batch_size=1", "optim.max_steps=1"])
    encoder = load_encoder(recipe.retriever)
    parts = {part: [Sample(f"s{n}", "", n, f"d{n}") for n in range(2)] for part in ("train", "val")}
    dataset = Dataset("twins", ("crane", "crane (2)"), parts, unnumbered=("crane", "crane"))
    ids = RetrieverData(recipe, Pixels(encoder, TuningArgs(augment=False)), dataset, 0).name_ids()
    assert torch.equal(ids[0], ids[1])
    assert torch.equal(ids[0, 0], encoder.tokenize(["crane"])[0])
