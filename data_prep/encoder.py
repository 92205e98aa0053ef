"""The CLIP encoder: any open_clip model, as a LightningModule under ``Trainer.predict``."""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import SingleDeviceStrategy
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data_prep.errors import UserError
from data_prep.files import fingerprint, write_folder, write_json
from data_prep.hub import settle_hub
from data_prep.records import Sample
from data_prep.settings import RetrieverArgs

log = logging.getLogger(__name__)

NANO_CLIP = Path(__file__).resolve().parent / "assets" / "nano-clip"


@dataclass(frozen=True)
class Encoder:
    """A loaded encoder.

    Attributes:
        model: open_clip's model in eval mode.
        preprocess: From a PIL image to a tensor ``[3, h, w]``.
        tokenize: From texts to token ids ``[n, context]``.
        id: Model, weights and preprocessing in short; embeddings and memories carry it.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    tokenize: Callable[[list[str]], Tensor]
    id: str


def _weights_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_encoder(args: RetrieverArgs) -> Encoder:
    """Loads an open_clip model with weights; never with random ones.

    Raises:
        UserError: No weights are named, or the model or its weights cannot be had; the message
            says how to point to a local copy.
    """
    import open_clip

    name = f"local-dir:{NANO_CLIP}" if args.model == "nano-clip" else args.model
    carries_weights = name.startswith(("local-dir:", "hf-hub:"))
    if carries_weights and args.pretrained:
        raise UserError(
            f"retriever.pretrained={args.pretrained}: {args.model} brings its own weights; leave it out, or name the "
            "architecture as retriever.model"
        )
    known = open_clip.list_models()
    if not carries_weights and name not in known:
        near = difflib.get_close_matches(name, known, 3)
        raise UserError(
            f"retriever.model={name}: unknown to open_clip"
            + (f"; near it are {', '.join(near)}" if near else "")
            + "; nano-clip, local-dir:FOLDER and hf-hub:OWNER/NAME work too"
        )
    if not carries_weights and not args.pretrained:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UserError(
            f"retriever.model={name} needs retriever.pretrained: "
            + (f"one of {', '.join(tags)}, or a path of weights" if tags else "a path of weights")
        )
    if not name.startswith("local-dir:") and not Path(args.pretrained or "").is_file():
        settle_hub()
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            name, pretrained=None if carries_weights else args.pretrained, require_pretrained=True
        )
        tokenize = open_clip.get_tokenizer(name)
    except Exception as error:
        raise UserError(
            f"retriever.model={args.model} retriever.pretrained={args.pretrained}: could not be loaded "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). Without a network, give "
            "retriever.pretrained=PATH of the weights' file, or retriever.model=local-dir:FOLDER with "
            "open_clip_config.json beside the weights."
        ) from None
    model.eval()
    parts = [args.model, args.pretrained or "", _weights_hash(model), repr(preprocess)]
    return Encoder(model, preprocess, tokenize, f"{Path(args.model).name}-{fingerprint(parts)}")


class EncoderModule(L.LightningModule):
    """Embeds batches of preprocessed images or of token ids."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def predict_step(self, batch: tuple[str, Tensor], _) -> Tensor:
        """Embeds one batch.

        Args:
            batch: ``image`` with pixels ``[n, 3, h, w]``, or ``text`` with ids ``[n, context]``.

        Returns:
            Tensor: Unit vectors in float32, shape ``[n, d]``.
        """
        kind, values = batch
        encode = self.model.encode_image if kind == "image" else self.model.encode_text
        return F.normalize(encode(values).float(), dim=-1).cpu()


class _Images(Dataset):
    def __init__(self, samples: Sequence[Sample], preprocess: Callable[[Image.Image], Tensor]):
        self.samples, self.preprocess = samples, preprocess

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        with Image.open(self.samples[index].path) as image:
            return "image", self.preprocess(image.convert("RGB"))


class _Texts(Dataset):
    def __init__(self, ids: Tensor):
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        return "text", self.ids[index]


def _collate(rows: list[tuple[str, Tensor]]) -> tuple[str, Tensor]:
    return rows[0][0], torch.stack([values for _, values in rows])


def _embed(encoder: Encoder, rows: Dataset, args: RetrieverArgs, workers: int) -> np.ndarray:
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    trainer = L.Trainer(
        strategy=SingleDeviceStrategy(device),
        accelerator=device.type,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(rows, args.batch_size, collate_fn=_collate, num_workers=workers)
    parts = trainer.predict(EncoderModule(encoder.model), loader)
    return torch.cat(parts).numpy()


def _checked(vectors: np.ndarray, count: int) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1)
    if len(vectors) != count or not np.allclose(norms, 1, atol=1e-4):
        raise UserError(
            f"the encoder gave {len(vectors)} vectors for {count} inputs, with norms in "
            f"{norms.min():.4f}..{norms.max():.4f}; the weights may be damaged"
        )
    return vectors


def _cached(cache: Path, key: dict, what: str, count: int, make: Callable[[], np.ndarray]) -> np.ndarray:
    folder = cache / f"embeddings-{fingerprint(key)}"
    if folder.exists():
        log.info("embeddings: reusing %d %s", count, what)
    else:
        log.info("embeddings: computing %d %s", count, what)
        with write_folder(folder) as part:
            np.save(part / "embeddings.npy", _checked(make(), count))
            write_json(part / "manifest.json", key | {"count": count})
    return _checked(np.load(folder / "embeddings.npy"), count)


def embed_images(encoder: Encoder, samples: Sequence[Sample], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds images, or finds their embeddings in the cache by encoder and content.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the samples.
    """
    contents = fingerprint([sample.digest for sample in samples])
    return _cached(
        cache,
        {"encoder": encoder.id, "images": contents},
        "images",
        len(samples),
        lambda: _embed(encoder, _Images(samples, encoder.preprocess), args, args.workers),
    )


def embed_names(encoder: Encoder, names: Sequence[str], args: RetrieverArgs, cache: Path) -> np.ndarray:
    """Embeds class names: the mean over the templates, normalised again; without templates, the bare names.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``, in the order of the names.
    """
    templates = list(args.templates) or ["{}"]

    def make() -> np.ndarray:
        texts = [template.format(name) for template in templates for name in names]
        vectors = _embed(encoder, _Texts(encoder.tokenize(texts)), args, 0)
        mean = vectors.reshape(len(templates), len(names), -1).mean(0)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    key = {"encoder": encoder.id, "templates": templates, "names": fingerprint(list(names))}
    return _cached(cache, key, "names", len(names), make)
