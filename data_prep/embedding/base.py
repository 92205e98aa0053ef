"""The interface of encoders: what embeds images, and texts where it can, and the check of what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_prep.core.errors import UserError
from data_prep.settings import TrainerArgs


class Encoder(ABC):
    """Embeds images, and texts if ``encode_texts`` is defined.

    One that does not define it has no memory of names, and what needs one is left out.

    Attributes:
        id: Short identifier of letters, digits, ``-``, ``_`` and ``.``; embeddings and memories are kept under it.
        metadata: All that embeddings depend on, as JSON: the model, its weights, its preprocessing.
        processes: Devices and machines to embed on.
        origin: What messages call the encoder.

    Example:
        >>> import numpy as np
        >>> from data_prep import Encoder
        >>> class Colours(Encoder):
        ...     id, metadata = "colours", {"bins": 4}
        ...
        ...     def preprocess(self, image):
        ...         bins = np.asarray(image).reshape(-1, 3) // 64
        ...         return np.bincount(bins @ [16, 4, 1], minlength=64).astype(np.float32)
        ...
        ...     def encode_images(self, images):
        ...         return images / images.norm(dim=-1, keepdim=True)
        >>> Colours().reads_texts
        False
    """

    id: str
    metadata: dict
    processes: TrainerArgs = TrainerArgs()
    origin: str = "the encoder"

    @property
    def reads_texts(self) -> bool:
        """Whether names of classes can be embedded."""
        return type(self).encode_texts is not Encoder.encode_texts

    @property
    def image_encoder(self) -> Encoder:
        """The encoder of the memory of images, and of what is compared with it: this one, except in a pair."""
        return self

    @property
    def name_encoder(self) -> Encoder:
        """The encoder of the memory of names, and of what is compared with it: this one, except in a pair."""
        return self

    def preprocess(self, image: Image.Image, /) -> Any:
        """Prepares an image in mode RGB, in the processes that load images; by default it stays as it is.

        Returns:
            Any: Tensors and arrays of one shape are stacked before they come to ``encode_images``.
        """
        return image

    @abstractmethod
    def encode_images(self, images: Any) -> Tensor | np.ndarray:
        """Embeds a batch.

        Args:
            images: What ``preprocess`` returned: a tensor ``[n, …]`` on the device of ``to``, or a list of ``n``.

        Returns:
            Tensor | np.ndarray: Unit vectors in float32, shape ``[n, d]``.
        """

    def encode_texts(self, texts: list[str]) -> Tensor | np.ndarray:
        """Embeds texts, such as ``a photo of a lynx``, in the space of the images.

        Returns:
            Tensor | np.ndarray: Unit vectors in float32, shape ``[n, d]``.

        Raises:
            UserError: The encoder embeds images alone.
        """
        raise UserError(f"{self.origin} embeds images alone")

    def to(self, device: torch.device) -> None:  # noqa: B027
        """Moves the model to a device; by default it stays where it is."""

    def towers(self) -> Encoder | None:
        """Returns the encoder of the features that ``project_images`` embeds.

        Returns:
            Encoder | None: None where a part that is often tuned alone cannot be separated from the rest. Where it can,
            the rest runs once for each image, whatever that part's weights are.
        """
        return None

    def project_images(self, features: np.ndarray) -> np.ndarray:
        """Embeds the towers' features, unit vectors of shape ``[n, channels]``, as unit vectors of shape ``[n, d]``.

        Raises:
            UserError: The encoder has no towers of its own.
        """
        raise UserError(f"{self.origin} has no part that could be separated from its towers")

    def check_texts(self, texts: Sequence[str], templates: Sequence[str], items: str) -> None:  # noqa: B027
        """Warns of texts that cannot be read in full.

        Args:
            texts: Names or descriptions of classes.
            templates: Prompts with ``{}`` for the text.
            items: ``names`` or ``descriptions``.
        """


def stack(prepared: Sequence[Any]) -> Any:
    """Stacks what ``preprocess`` returned for a batch: tensors and arrays to a tensor ``[n, …]``, others to a list."""
    if all(isinstance(item, np.ndarray) for item in prepared):
        prepared = [torch.from_numpy(np.ascontiguousarray(item)) for item in prepared]
    if not all(isinstance(item, Tensor) for item in prepared):
        return list(prepared)
    shapes = {tuple(item.shape) for item in prepared}
    return torch.stack(list(prepared)) if len(shapes) == 1 else list(prepared)


def check_vectors(vectors: Any, count: int, source: str) -> np.ndarray:
    """Checks what an encoder returned.

    Args:
        vectors: What it returned.
        count: Number of images or texts.
        source: What returned it, for messages.

    Returns:
        np.ndarray: Unit vectors in float32 on the CPU, shape ``[n, d]``.

    Raises:
        UserError: They are of another type, shape or data type, not finite, or not of unit length.
    """
    if not isinstance(vectors, Tensor | np.ndarray):
        raise UserError(f"{source} returned {type(vectors).__name__}, not a tensor or an array")
    dtype, shape = str(vectors.dtype).removeprefix("torch."), list(vectors.shape)
    if len(shape) != 2 or shape[0] != count or shape[1] == 0:
        raise UserError(f"{source} returned a shape of {shape} for {count} inputs, not [{count}, d]")
    if dtype != "float32":
        raise UserError(f"{source} returned {dtype}, not float32")
    rows = vectors.detach().cpu().numpy() if isinstance(vectors, Tensor) else vectors
    if not np.isfinite(rows).all():
        raise UserError(f"{source} returned vectors that are not finite; the weights may be damaged")
    norms = np.linalg.norm(rows, axis=1)
    if not np.allclose(norms, 1, atol=1e-4):
        raise UserError(
            f"{source} returned vectors with norms in {norms.min():.4f}..{norms.max():.4f} instead of 1; normalise "
            "them, and if they are, the weights may be damaged"
        )
    return rows


@torch.inference_mode()
def encode_images(encoder: Encoder, prepared: Any, count: int) -> np.ndarray:
    """Embeds a batch of ``count`` prepared images, on the encoder's device, and checks the vectors, ``[n, d]``."""
    return check_vectors(encoder.encode_images(prepared), count, f"{encoder.origin}: encode_images")


@torch.inference_mode()
def encode_prompts(encoder: Encoder, prompts: Sequence[Sequence[str]]) -> np.ndarray:
    """Embeds texts, each given as as many prompts, and averages over the prompts.

    Args:
        encoder: The encoder.
        prompts: The prompts of each text, shape ``[n, t]``.

    Returns:
        np.ndarray: Unit vectors in float32, shape ``[n, d]``.
    """
    flat = [prompt for of_text in prompts for prompt in of_text]
    rows = torch.from_numpy(check_vectors(encoder.encode_texts(flat), len(flat), f"{encoder.origin}: encode_texts"))
    means = rows.unflatten(0, (len(prompts), len(prompts[0]))).mean(1)
    return torch.nn.functional.normalize(means, dim=-1).numpy()
