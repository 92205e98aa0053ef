"""Encoder: unit vectors in input order, a correctly keyed cache, and never random weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.core.records import Sample
from data_prep.embedding.encoder import NANO_CLIP, embed_images, embed_names, load_encoder
from data_prep.settings import RetrieverArgs, TrainerArgs

ARGS = RetrieverArgs()


@pytest.fixture
def samples(tmp_path, draw_picture):
    paths = [draw_picture(tmp_path / "images" / f"{n}.png", n) for n in range(7)]
    return [Sample(f"k{n}", str(path), n % 2, file_hash(path)) for n, path in enumerate(paths)]


def error_message(**settings) -> str:
    with pytest.raises(UserError) as caught:
        load_encoder(RetrieverArgs(**settings))
    return str(caught.value)


def copy_of_nano_clip(folder: Path, change=lambda weights: None) -> str:
    shutil.copytree(NANO_CLIP, folder)
    weights = safetensors.torch.load_file(folder / "open_clip_model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


def test_images_become_unit_vectors_in_the_order_of_the_samples(encoder, samples, tmp_path):
    vectors = embed_images(encoder, samples, ARGS, tmp_path / "a")
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(7), abs=1e-5)
    assert embed_images(encoder, samples[::-1], ARGS, tmp_path / "a") == pytest.approx(vectors[::-1], abs=1e-5)
    assert len(np.unique(vectors.round(4), axis=0)) == 7


def test_vectors_do_not_depend_on_batch_size_or_workers(encoder, samples, tmp_path):
    vectors = embed_images(encoder, samples, ARGS, tmp_path / "a")
    for index, change in enumerate([{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 3, "num_workers": 2}]):
        recomputed = embed_images(encoder, samples, replace(ARGS, **change), tmp_path / f"b{index}")
        assert recomputed == pytest.approx(vectors, abs=1e-5)
    names = [f"a bend {n}" for n in range(5)]
    texts = [embed_names(encoder, names, replace(ARGS, batch_size=b), tmp_path / f"c{b}") for b in (2, 5)]
    assert texts[0] == pytest.approx(texts[1], abs=1e-5)


def test_vectors_equal_those_of_open_clip_itself(encoder, samples, tmp_path):
    """Compares with the calls that a user of open_clip would write."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{NANO_CLIP}")
    with torch.no_grad(), Image.open(samples[2].path) as image:
        expected = model.eval().encode_image(preprocess(image)[None], normalize=True)[0].numpy()
    assert embed_images(encoder, samples, ARGS, tmp_path)[2] == pytest.approx(expected, abs=1e-5)


def test_an_image_is_nearer_to_its_own_name_than_to_others(encoder, armory, tmp_path):
    """Random weights, a wrong tokenizer or wrong preprocessing would give chance level, one half."""
    samples = armory.parts["test"]
    similarities = embed_images(encoder, samples, ARGS, tmp_path) @ embed_names(encoder, armory.names, ARGS, tmp_path).T
    to_own_name = similarities[np.arange(len(samples)), [sample.label for sample in samples]]
    assert (to_own_name[:, None] > similarities).mean() > 0.75


def test_cached_embeddings_are_not_recomputed(encoder, samples, tmp_path):
    first = embed_images(encoder, samples, ARGS, tmp_path / "cache")
    for sample in samples:
        Path(sample.path).unlink()
    assert np.array_equal(embed_images(encoder, samples, replace(ARGS, batch_size=2), tmp_path / "cache"), first)


def test_changed_image_content_is_a_cache_miss_even_at_the_same_path(encoder, samples, draw_picture, tmp_path):
    first = embed_images(encoder, samples, ARGS, tmp_path / "cache")
    path = draw_picture(Path(samples[3].path), 99)
    samples[3] = replace(samples[3], digest=file_hash(path))
    changed = np.abs(embed_images(encoder, samples, ARGS, tmp_path / "cache") - first).max(1) > 1e-3
    assert list(np.flatnonzero(changed)) == [3]


def test_other_weights_are_another_encoder_and_a_cache_miss(encoder, samples, tmp_path):
    same = load_encoder(RetrieverArgs(model=copy_of_nano_clip(tmp_path / "same" / "nano-clip")))

    def scale(weights):
        weights["visual.proj" if "visual.proj" in weights else "text_projection"].mul_(-1)

    other = load_encoder(RetrieverArgs(model=copy_of_nano_clip(tmp_path / "other" / "nano-clip", scale)))
    assert other.id != encoder.id
    first = embed_images(encoder, samples, ARGS, tmp_path / "cache")
    assert embed_images(same, samples, ARGS, tmp_path / "cache") == pytest.approx(first, abs=1e-5)
    assert embed_images(other, samples, ARGS, tmp_path / "cache") == pytest.approx(-first, abs=1e-5)


def test_the_encoder_id_does_not_depend_on_the_process(encoder):
    """Caches and memories are looked up by it; a function's address in the preprocessing would change it."""
    assert load_encoder(ARGS).id == encoder.id
    assert " at 0x" not in repr(encoder.preprocess)


def test_names_are_averaged_over_templates(encoder, tmp_path):
    names = ["azure, a bend or", "gules, a cross or", "vert"]
    single = [
        embed_names(encoder, names, RetrieverArgs(templates=[template]), tmp_path)
        for template in ("{}", "a shield: {}")
    ]
    both = embed_names(encoder, names, RetrieverArgs(templates=["{}", "a shield: {}"]), tmp_path)
    mean = (single[0] + single[1]) / 2
    assert both == pytest.approx(mean / np.linalg.norm(mean, axis=1, keepdims=True), abs=1e-5)
    assert np.abs(single[0] - single[1]).max() > 1e-3


def test_the_error_for_a_model_without_weights_lists_its_tags():
    message = error_message(model="ViT-B-16")
    assert "retriever.model=ViT-B-16 needs retriever.pretrained: one of openai, " in message
    assert "or the path of a weights file" in message


def test_weights_that_are_neither_a_file_nor_a_tag_are_refused(tmp_path):
    for pretrained in ("opanai", str(tmp_path / "missing.pt"), str(tmp_path)):
        message = error_message(model="ViT-B-32", pretrained=pretrained)
        expected = f"retriever.pretrained={pretrained}: neither a file nor a tag of ViT-B-32; give one of openai, "
        assert expected in message


@pytest.mark.parametrize("missing", [["mean"], ["std"], ["mean", "std"], None])
def test_a_folder_without_mean_or_std_is_refused(tmp_path, missing):
    folder = Path(copy_of_nano_clip(tmp_path / "mine").removeprefix("local-dir:"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    if missing is None:
        del config["preprocess_cfg"]
    for key in missing or ():
        del config["preprocess_cfg"][key]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "manifest.json").unlink(missing_ok=True)
    expected = f"open_clip_config.json: preprocess_cfg lacks {' and '.join(missing or ['mean', 'std'])}"
    assert expected in error_message(model=f"local-dir:{folder}")


@pytest.mark.parametrize("file", ["junk.pt", "empty.pt"])
def test_an_error_of_weights_that_do_not_load_says_what_to_do(tmp_path, file):
    """Uses a small model of open_clip's own list; bad weights are refused, not replaced by random ones."""
    (tmp_path / "junk.pt").write_bytes(b"not weights")
    torch.save({}, tmp_path / "empty.pt")
    message = error_message(model="ViT-S-32-alt", pretrained=str(tmp_path / file))
    assert f"retriever.model=ViT-S-32-alt retriever.pretrained={tmp_path / file}: could not be loaded" in message
    assert "retriever.pretrained=PATH" in message
    assert "local-dir:FOLDER" in message


def test_a_folder_with_incomplete_weights_is_refused(tmp_path):
    def drop_one(weights):
        weights.pop(sorted(weights)[5])

    assert "could not be loaded" in error_message(model=copy_of_nano_clip(tmp_path / "part", drop_one))
    (tmp_path / "part" / "open_clip_model.safetensors").unlink()
    assert "could not be loaded" in error_message(model=f"local-dir:{tmp_path / 'part'}")
    assert "could not be loaded" in error_message(model=f"local-dir:{tmp_path / 'nowhere'}")


def test_weights_that_do_not_give_unit_vectors_are_refused(tmp_path, samples):
    def fill_with_nan(weights):
        for value in weights.values():
            value.fill_(float("nan"))

    broken = load_encoder(RetrieverArgs(model=copy_of_nano_clip(tmp_path / "nan", fill_with_nan)))
    with pytest.raises(UserError, match="the weights may be damaged"):
        embed_images(broken, samples, ARGS, tmp_path / "cache")
    # Nothing may be cached.
    assert not list((tmp_path / "cache").glob("embeddings-*"))


def test_an_unknown_model_name_is_refused():
    assert "unknown" in error_message(model="ViT-B-61") or "ViT-B-16" in error_message(model="ViT-B-61")


def test_weights_for_a_model_that_includes_its_own_are_refused(tmp_path):
    assert "retriever.pretrained" in error_message(model="nano-clip", pretrained=str(tmp_path / "mine.pt"))


def test_two_processes_give_the_same_bytes_as_one(encoder, tmp_path, draw_picture):
    """Compares every vector, in order; also after a killed run, where some are already cached."""
    paths = [draw_picture(tmp_path / "many" / f"{n}.png", n) for n in range(50)]
    samples = [Sample(f"m{n}", str(path), 0, file_hash(path)) for n, path in enumerate(paths)]
    args = replace(ARGS, batch_size=3)
    one = embed_images(encoder, samples, args, tmp_path / "one")
    parallel = replace(encoder, processes=TrainerArgs(devices=2, accelerator="cpu"))
    two = embed_images(parallel, samples, args, tmp_path / "two")
    assert one.tobytes() == two.tobytes()
    parts = sorted((tmp_path / "two").glob("embeddings-*/part-*"))
    assert len(parts) == 2, "each process writes its own"
    # As if one of the processes was killed before it wrote.
    parts[0].unlink()
    assert embed_images(encoder, samples, args, tmp_path / "two").tobytes() == one.tobytes()


@pytest.mark.slow
def test_an_error_in_a_spawned_process_keeps_its_message(encoder, tmp_path, draw_picture):
    paths = [draw_picture(tmp_path / "many" / f"{n}.png", n) for n in range(16)]
    samples = [Sample(f"m{n}", str(path), 0, file_hash(path)) for n, path in enumerate(paths)]
    draw_picture(paths[9], 99)
    parallel = replace(encoder, processes=TrainerArgs(devices=2, accelerator="cpu"))
    with pytest.raises(UserError) as caught:
        embed_images(parallel, samples, replace(ARGS, batch_size=1), tmp_path / "cache")
    assert str(caught.value) == f"{paths[9]}: has changed since the data set was read; run the command again"


def test_only_new_images_are_embedded(encoder, samples, tmp_path, caplog):
    caplog.set_level("INFO", "data_prep")
    embed_images(encoder, samples[:5], ARGS, tmp_path)
    for sample in samples[:5]:
        Path(sample.path).unlink()
    embed_images(encoder, [*samples[::-1], samples[6]], ARGS, tmp_path)
    assert "computing 2 of 8 images" in caplog.text
    assert "images/s" in caplog.text


def test_a_damaged_part_of_the_cache_is_named_in_the_error(encoder, samples, tmp_path):
    embed_images(encoder, samples, ARGS, tmp_path)
    (part,) = tmp_path.glob("embeddings-*/part-*.safetensors")
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{part.name}: damaged .* delete it to have it made again"):
        embed_images(encoder, samples, ARGS, tmp_path)


def test_a_damaged_vector_is_refused_and_the_suggested_fix_restores_the_same_bytes(encoder, samples, tmp_path):
    """One flipped sign leaves the vector's length unchanged."""
    first = embed_images(encoder, samples, ARGS, tmp_path)
    embed_names(encoder, ["a bend", "a cross"], ARGS, tmp_path)
    for part in tmp_path.glob("embeddings-*/part-*.safetensors"):
        data = part.read_bytes()
        sign = data.find(safetensors.torch.load(data)["vectors"].numpy().tobytes()) + 3
        part.write_bytes(data[:sign] + bytes([data[sign] ^ 0x80]) + data[sign + 1 :])
    with pytest.raises(UserError, match=r"the checksum of its vectors differs\); delete it to have it made again"):
        embed_images(encoder, samples, ARGS, tmp_path)
    for part in tmp_path.glob("embeddings-*/part-*.safetensors"):
        part.unlink()
    assert embed_images(encoder, samples, ARGS, tmp_path).tobytes() == first.tobytes()


def test_another_architecture_on_the_same_weights_is_another_encoder(encoder, tmp_path):
    """The number of heads is not visible in the weights."""
    model = copy_of_nano_clip(tmp_path / "nano-clip")
    first = load_encoder(RetrieverArgs(model=model))
    config = tmp_path / "nano-clip" / "open_clip_config.json"
    config.write_text(config.read_text().replace('"head_width": 32', '"head_width": 64'))
    assert load_encoder(RetrieverArgs(model=model)).id != first.id


def test_half_precision_gives_similar_vectors_and_another_encoder_id(encoder, samples, tmp_path):
    half = load_encoder(RetrieverArgs(dtype="bfloat16"))
    assert half.id != encoder.id
    vectors = embed_images(half, samples, ARGS, tmp_path)
    assert vectors.dtype == np.float32
    assert (vectors * embed_images(encoder, samples, ARGS, tmp_path)).sum(1).min() > 0.99
