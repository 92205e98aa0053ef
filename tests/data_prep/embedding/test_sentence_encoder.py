"""Encoders of sentence-transformers: instructions for images and texts; only where the library is installed."""

from __future__ import annotations

import pickle
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.embedding.encoder import embed_images, embed_names, load_encoder
from data_prep.settings import RetrieverArgs, TrainerArgs
from tests.tiny_encoders import make_tokenizer, picture, write_transformers

library = pytest.importorskip("sentence_transformers")

CPU = TrainerArgs(accelerator="cpu")
NAMES = ["a lynx", "azure, a bend or"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_transformers("clip", folder / "clip")
    library.SentenceTransformer(str(folder / "clip"), device="cpu").save_pretrained(str(folder / "st"))
    return folder / "st"


def test_vectors_equal_the_librarys_with_the_instruction_of_each_side(folder, tmp_path):
    args = RetrieverArgs(model=f"st:{folder}", text_instruction="find: ")
    encoder = load_encoder(args, CPU)
    paths = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    samples = [Sample(path.stem, str(path), 0, file_hash(path)) for path in paths]
    model = library.SentenceTransformer(str(folder), device="cpu")
    images = model.encode([Image.open(path) for path in paths], normalize_embeddings=True)
    assert embed_images(encoder, samples, args, tmp_path) == pytest.approx(images, abs=1e-5)
    texts = model.encode(NAMES, prompt="find: ", normalize_embeddings=True)
    assert embed_names(encoder, NAMES, args, tmp_path) == pytest.approx(texts, abs=1e-5)
    plain = load_encoder(RetrieverArgs(model=f"st:{folder}"), CPU)
    assert plain.id != encoder.id
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert load_encoder(RetrieverArgs(model=f"st:{moved}", text_instruction="find: "), CPU).id == encoder.id
    again = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(again.encode_texts(NAMES), encoder.encode_texts(NAMES))


def test_truncated_names_are_reported(folder, tmp_path, caplog):
    args = RetrieverArgs(model=f"st:{folder}")
    embed_names(load_encoder(args, CPU), ["lynx " * 100, "manul"], args, tmp_path)
    assert "names: 1 of 2 names are longer than the 77 tokens" in caplog.text


def test_missing_weights_and_models_of_texts_alone_are_refused(folder, tmp_path):
    part = shutil.copytree(folder, tmp_path / "part")
    weights = load_file(part / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, part / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks some of its weights"):
        load_encoder(RetrieverArgs(model=f"st:{part}"), CPU)
    from transformers import BertConfig, BertModel

    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=400, **size)).save_pretrained(tmp_path / "bert")
    make_tokenizer().save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="embeds text, and no images"):
        load_encoder(RetrieverArgs(model=f"st:{tmp_path / 'bert'}"), CPU)
