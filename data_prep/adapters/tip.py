"""Tip-Adapter and Tip-Adapter-F (Zhang et al., ECCV 2022, arXiv 2207.09519): a cache of images beside zero-shot scores.

A query x has the logits s x T + alpha A(x) L, with the affinities A = exp(-beta (1 - x K)) to the cached keys K, their
one-hot labels L, the names T and their scale s. The keys are the images' embeddings, which Tip-Adapter-F tunes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from data_prep.adapters.hyperparameters import EPOCHS, Hyperparameters
from data_prep.adapters.support import Support
from data_prep.memory.exact import full_precision

ALPHAS = BETAS = tuple(np.geomspace(0.1, 30, 12).round(4).tolist())
"""Values that are compared on validation images: the range of the paper's configurations, which end at 3 to 30."""

_BATCH, _LR, _EPS = 256, 1e-3, 1e-4  # of Tip-Adapter-F, as in the released code
_CHUNK = 2**14  # keys that are compared at once

Hidden = tuple[np.ndarray, np.ndarray]
"""Pairs of a query and a key that must not answer it: indices of both."""


def sum_affinities(
    keys: Tensor, classes: Tensor, count: int, xq: Tensor, beta: float, hidden: Hidden | None = None
) -> Tensor:
    """Sums queries' affinities to the keys of each class.

    Args:
        keys: Shape ``[n, d]``.
        classes: Class of each key, as an index, shape ``[n]``.
        count: Number of classes.
        xq: Queries, shape ``[b, d]``.
        beta: Sharpness.
        hidden: Keys that do not count for a query.

    Returns:
        Tensor: Shape ``[c, b]``.
    """
    sums = torch.zeros(count, len(xq), device=keys.device)
    for start in range(0, len(keys), _CHUNK):
        part = slice(start, start + _CHUNK)
        affinities = keys[part] @ xq.T
        affinities.sub_(1).mul_(beta).exp_()
        if hidden is not None:
            here = (hidden[1] >= start) & (hidden[1] < start + _CHUNK)
            queries, rows = (torch.from_numpy(index[here]).to(keys.device) for index in hidden)
            affinities[rows - start, queries] = 0
        sums.index_add_(0, classes[part], affinities)
    return sums


class CacheModel:
    """Scores classes by a cache of images and by names.

    Args:
        support: The images and names.
        keys: The cache's keys, float32, shape ``[n, d]``, in the support's order, on the device that computes scores.
        settings: ``alpha`` and ``beta``.
    """

    def __init__(self, support: Support, keys: Tensor, settings: Hyperparameters):
        assert support.names is not None
        self.keys, self.settings, self.scale, self.device = keys, settings, support.name_scale, keys.device
        self.names, self.classes = (torch.from_numpy(a).to(keys.device) for a in (support.names, support.classes))

    def logits(self, by_image: Tensor, by_name: Tensor, hidden: Hidden | None = None) -> Tensor:
        """Computes the logits of all classes.

        Args:
            by_image: Queries to compare with images, shape ``[b, d]``.
            by_name: The same queries to compare with names, shape ``[b, e]``.
            hidden: Images that do not count for a query.

        Returns:
            Tensor: Shape ``[c, b]``.
        """
        alpha, beta = self.settings.alpha, self.settings.beta
        cached = sum_affinities(self.keys, self.classes, len(self.names), by_image, beta, hidden)
        return cached.mul_(alpha).add_(self.names @ by_name.T, alpha=self.scale)


@torch.no_grad()
def tune_keys(
    support: Support,
    stop: int,
    device: torch.device,
    after_epoch: Callable[[int, Tensor], None] | None = None,
) -> np.ndarray:
    """Tunes the keys of Tip-Adapter-F by cross-entropy on the cached images themselves.

    As in the released code: AdamW with a learning rate of 0.001 and a cosine schedule over ``EPOCHS`` epochs of
    shuffled batches of 256 images, at the paper's default alpha and beta. That one also augments the images.

    Args:
        support: The images and names, in one space.
        stop: Number of epochs after which tuning ends.
        device: Where they are tuned.
        after_epoch: Called with the number of epochs and the keys.

    Returns:
        np.ndarray: The keys, shape ``[n, d]``.
    """
    assert support.names is not None
    count, size = len(support.labels), len(support)
    images, names = (torch.from_numpy(array).to(device) for array in (support.xb, support.names))
    classes = torch.from_numpy(support.classes).to(device)
    keys = torch.nn.Parameter(images.clone())
    optimizer = torch.optim.AdamW([keys], lr=_LR, eps=_EPS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-size // _BATCH))
    shuffle = torch.Generator().manual_seed(0)
    with full_precision(device):
        for epoch in range(1, stop + 1):
            for rows in torch.randperm(size, generator=shuffle).to(device).split(_BATCH):
                logits = support.name_scale * (names @ images[rows].T)
                keys.grad = _key_gradient(keys, classes, count, images[rows], classes[rows], logits)
                optimizer.step()
                schedule.step()
            if after_epoch:
                after_epoch(epoch, keys.detach())
    return keys.detach().cpu().numpy()


def _key_gradient(keys: Tensor, classes: Tensor, count: int, x: Tensor, truths: Tensor, logits: Tensor) -> Tensor:
    """Computes the gradient of a batch's mean cross-entropy in the keys, shape ``[n, d]``.

    Args:
        keys: Shape ``[n, d]``.
        classes: Class of each key, shape ``[n]``.
        count: Number of classes.
        x: The batch, shape ``[b, d]``.
        truths: Its classes, shape ``[b]``.
        logits: Its zero-shot logits, shape ``[c, b]``.
    """
    default = Hyperparameters()
    affinities = (keys @ x.T).sub_(1).mul_(default.beta).exp_()
    cached = torch.zeros(count, len(x), device=keys.device).index_add_(0, classes, affinities)
    errors = (logits + default.alpha * cached).softmax(0)
    errors[truths, torch.arange(len(x), device=keys.device)] -= 1
    affinities *= errors[classes]
    return (affinities @ x).mul_(default.alpha * default.beta / len(x))
