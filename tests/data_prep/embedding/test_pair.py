"""Pairs of encoders: images by one, names by another, and queries by both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.embedding.encoder import embed_images, embed_names, embed_queries, load_encoder
from data_prep.embedding.known import open_encoder
from data_prep.embedding.pair import EncoderPair, PairedQueries, split_settings
from data_prep.memory.memories import Memories, image_memory, name_memory
from data_prep.settings import RetrieverArgs, TrainerArgs
from tests.tiny_encoders import picture, write_timm, write_transformers

CPU = TrainerArgs(accelerator="cpu")
NAMES = ["a lynx", "azure, a bend or", "gules"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_timm(folder / "timm")
    write_transformers("clip", folder / "clip")  # of another dimension
    return folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    paths = [tmp_path_factory.getbasetemp() / f"pair-{seed}.png" for seed in range(6)]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    return [Sample(path.stem, str(path), seed % 3, file_hash(path)) for seed, path in enumerate(paths)]


@pytest.fixture
def args(folder):
    return RetrieverArgs(model=f"timm:{folder / 'timm'}", name_model=f"hf:{folder / 'clip'}")


def test_each_side_equals_its_encoder_alone(args, samples, tmp_path):
    pair = load_encoder(args, CPU)
    of_images, of_names = (load_encoder(side, CPU) for side in split_settings(args))
    queries = embed_queries(pair, samples, args, tmp_path / "pair")
    assert (queries.images == embed_images(of_images, samples, args, tmp_path / "images")).all()
    assert (queries.names == embed_images(of_names, samples, args, tmp_path / "names")).all()
    assert (embed_images(pair, samples, args, tmp_path / "pair") == queries.images).all()
    names = embed_names(pair, NAMES, args, tmp_path / "pair")
    assert (names == embed_names(of_names, NAMES, args, tmp_path / "names")).all()
    assert queries.images.shape[1] != queries.names.shape[1] == names.shape[1]
    kept = {path.name for path in (tmp_path / "pair").iterdir()}
    assert kept == {f"embeddings-{of_images.id}", f"embeddings-{of_names.id}"}, "a pair shares its encoders' caches"


def test_search_compares_each_memory_with_its_own_side_and_fuses_both(args, samples, tmp_path):
    pair = load_encoder(args, CPU)
    xq = embed_queries(pair, samples, args, tmp_path)
    images, names = (
        image_memory(pair, samples, args, tmp_path),
        name_memory(pair, range(3), NAMES, args, tmp_path),
    )
    memories = Memories(images, names)
    labels = np.tile(np.arange(3), (6, 1))
    truth = np.array([sample.label for sample in samples])
    by_image = np.stack([(xq.images @ xq.images[truth == label].T).max(1) for label in range(3)], 1)
    by_name = xq.names @ embed_names(pair, NAMES, args, tmp_path).T
    assert memories.scores("image", xq, labels, args) == pytest.approx(by_image, abs=1e-5)
    assert memories.scores("name", xq, labels, args) == pytest.approx(by_name, abs=1e-5)
    scaled = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (by_image, by_name)]
    scores, found = memories.search("fused", xq, 3, args)
    assert scores == pytest.approx(np.sort(sum(scaled) / 2, axis=1)[:, ::-1], abs=1e-3)
    assert (found == np.argsort(-sum(scaled), axis=1)).all()
    assert (memories.search("image", xq, 1, args)[1][:, 0] == truth).all()


def test_a_pair_is_identified_by_both_and_known_without_loading(args, folder, tmp_path):
    pair = load_encoder(args, CPU)
    swapped = RetrieverArgs(model=args.name_model, name_model=args.name_model)
    assert load_encoder(swapped, CPU).id != pair.id
    assert open_encoder(args, CPU, tmp_path).id == pair.id
    known = open_encoder(args, CPU, tmp_path)
    assert known.id == pair.id and known.reads_texts
    assert known.image_encoder.reads_texts is False and "_loaded" not in known.name_encoder.__dict__
    assert embed_names(known, NAMES, args, tmp_path).shape == (3, 24)


def test_an_encoder_of_images_alone_cannot_embed_the_names(args, folder):
    with pytest.raises(UserError, match=r"retriever\.name_model=timm:.* embeds images alone, and no names"):
        load_encoder(RetrieverArgs(model=args.name_model, name_model=args.model), CPU)


def test_errors_about_the_encoder_of_names_name_its_settings(args):
    with pytest.raises(UserError, match=r"retriever\.name_model=ViT-B-16 needs retriever\.name_pretrained: one of"):
        load_encoder(RetrieverArgs(model=args.model, name_model="ViT-B-16"), CPU)


@pytest.mark.parametrize(
    "settings", [{"name_pretrained": "openai"}, {"name_tag": "openai"}, {"text_instruction": "find: "}]
)
def test_settings_without_their_model_are_refused(settings):
    with pytest.raises(UserError, match=f"retriever.{next(iter(settings))}"):
        RetrieverArgs(**settings)


def test_queries_are_selected_by_row():
    queries = PairedQueries(np.eye(4, dtype=np.float32), np.ones((4, 2), np.float32))
    assert len(queries) == 4 and len(queries[np.array([0, 2])]) == 2
    assert (queries[1:3].images == np.eye(4)[1:3]).all()


def test_a_single_encoder_gives_plain_queries(folder, samples, tmp_path):
    args = RetrieverArgs(model=f"hf:{folder / 'clip'}")
    encoder = load_encoder(args, CPU)
    assert not isinstance(encoder, EncoderPair)
    queries = embed_queries(encoder, samples, args, tmp_path)
    assert (queries == embed_images(encoder, samples, args, tmp_path)).all()


@pytest.mark.slow
def test_several_processes_embed_both_sides_bit_identically(args, tmp_path):
    samples = []
    for seed in range(16):  # enough batches of one image for two processes
        picture(seed).save(tmp_path / f"{seed}.png")
        path = str(tmp_path / f"{seed}.png")
        samples.append(Sample(str(seed), path, 0, file_hash(Path(path))))
    args = replace(args, batch_size=1)
    alone, both = (
        embed_queries(load_encoder(args, processes), samples, args, tmp_path / f"cache-{processes.devices}")
        for processes in (CPU, TrainerArgs(accelerator="cpu", devices=2))
    )
    assert (both.images == alone.images).all() and (both.names == alone.names).all()
    assert all(len(list(folder.glob("part-*"))) == 2 for folder in (tmp_path / "cache-2").iterdir())
