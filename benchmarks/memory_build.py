"""Benchmarks memory building against the encoder alone and against RAR's released code.

``python benchmarks/memory_build.py [--images 160] [--small]`` embeds the same synthetic photographs with the same
ViT-B/16 (random weights, which are as fast as any) with three methods, in turn, each twice, and keeps the better time:

- ``build``: the ``data_prep`` pipeline, from files to vectors in the cache
- ``encoder``: the encoder alone, on batches of tensors that are already in memory
- ``released``: the method of RAR's released code, one image after the other in a loop

The last line is one JSON object: images per second of each, ``ratio_to_encoder`` and ``ratio_to_released``. ``--small``
uses nano-clip instead, to try the script; its encoder is so fast that decoding dominates.

On 2026-11-25, two x86_64 cores, ``python benchmarks/memory_build.py``: build 3.18 images/s, encoder alone 3.26,
released method 3.50; ``ratio_to_encoder`` 0.97, ``ratio_to_released`` 0.91. On these cores a batch is no faster than
single images, so the released method loses nothing there; what it loses on a GPU was not measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image

from data_prep.core.files import file_hash
from data_prep.core.images import open_image
from data_prep.core.records import Sample
from data_prep.embedding.encoder import embed_images, load_encoder
from data_prep.embedding.open_clip_encoder import OpenClipEncoder
from data_prep.settings import RetrieverArgs, TrainerArgs

ROUNDS = 2


def photographs(folder: Path, count: int) -> list[Sample]:
    """Writes JPEG files of 500 by 375 pixels with coarse and fine structure, and returns their samples."""
    samples = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((500, 375), Image.BICUBIC)
        grain = rng.integers(-12, 13, (375, 500, 1))
        path = folder / f"{number}.jpg"
        Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        samples.append(Sample(str(number), str(path), 0, file_hash(path)))
    return samples


def vit_b_16() -> OpenClipEncoder:
    """Makes an encoder with random weights, which ``load_encoder`` refuses."""
    model, augment, preprocess = open_clip.create_model_and_transforms("ViT-B-16")
    tokenize = open_clip.get_tokenizer("ViT-B-16")
    return OpenClipEncoder(
        model.eval(), preprocess, augment, tokenize, torch.float32, "ViT-B-16-random", {}, TrainerArgs()
    )


@torch.inference_mode()
def encode_alone(encoder: OpenClipEncoder, batches: list[torch.Tensor], device: str) -> None:
    """Runs the encoder on tensors in memory."""
    for batch in batches:
        F.normalize(encoder.model.encode_image(batch.to(device)), dim=-1).cpu()


@torch.inference_mode()
def embed_one_by_one(encoder: OpenClipEncoder, samples: list[Sample], device: str) -> np.ndarray:
    """Embeds as RAR's released code does, one image at a time: open, preprocess, encode, append."""
    vectors = []
    for sample in samples:
        pixels = encoder.preprocess(open_image(sample.path))[None].to(device)
        vectors.append(F.normalize(encoder.model.encode_image(pixels), dim=-1).cpu().numpy())
    return np.concatenate(vectors)


def main(images: int, small: bool) -> None:
    """Times the three methods and prints the results."""
    encoder = load_encoder(RetrieverArgs()) if small else vit_b_16()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args = RetrieverArgs(batch_size=16)
    seconds = dict.fromkeys(("build", "encoder", "released"), float("inf"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        samples = photographs(folder, images)
        pixels = torch.stack([encoder.preprocess(open_image(sample.path)) for sample in samples])
        batches = list(pixels.split(args.batch_size))
        encode_alone(encoder, batches[:1], "cpu")  # warm up
        for round_index in range(ROUNDS):
            start = time.perf_counter()
            built = embed_images(encoder, samples, args, folder / f"cache-{round_index}")
            seconds["build"] = min(seconds["build"], time.perf_counter() - start)
            encoder.model.to(device)
            start = time.perf_counter()
            encode_alone(encoder, batches, device)
            seconds["encoder"] = min(seconds["encoder"], time.perf_counter() - start)
            start = time.perf_counter()
            released = embed_one_by_one(encoder, samples, device)
            seconds["released"] = min(seconds["released"], time.perf_counter() - start)
            encoder.model.to("cpu")
        assert np.allclose(built, released, atol=1e-3), "the methods disagree"
    throughput = {method: images / value for method, value in seconds.items()}
    for method, value in throughput.items():
        print(f"{method:10s} {value:8.2f} images/s")
    metrics = {
        "model": "nano-clip" if small else "ViT-B-16",
        "images": images,
        "images_per_s": {method: round(value, 2) for method, value in throughput.items()},
        "ratio_to_encoder": round(throughput["build"] / throughput["encoder"], 3),
        "ratio_to_released": round(throughput["build"] / throughput["released"], 3),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    main(args.images, args.small)
