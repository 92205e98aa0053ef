"""A linear probe that starts from the zero-shot weights and is held near them: CLAP.

Silva-Rodriguez et al., "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models" (CVPR 2024, arXiv
2312.12730). The weights minimise

    mean over images of cross-entropy(s x W, y)  +  strength * sum over classes c of lambda_c |w_c - t_c|^2

where lambda_c is the mean zero-shot probability of class c over its own images. That is convex, and solved by L-BFGS;
the paper runs 300 epochs of gradient descent. ``strength`` is 1 in the paper, which needs no validation images.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data_prep.adapters.support import Support
from data_prep.memory.exact import full_precision

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Values that are compared on validation images."""

ITERATIONS = 200
"""Iterations of L-BFGS, at most."""

_TOLERANCE = 1e-6  # of the weights where the penalty is strong, else of the gradient
_HELD = 2**25  # scores held at once


class LinearModel:
    """Scores classes by linear weights.

    Args:
        weights: float32, shape ``[c, d]``.
        scale: Factor of the products.
        device: Where scores are computed.
    """

    def __init__(self, weights: np.ndarray, scale: float, device: torch.device):
        self.weights, self.scale, self.device = torch.from_numpy(weights).to(device), scale, device
        self.is_missing = (self.weights == 0).all(1)  # a class without images or name

    def logits(self, by_image: Tensor, by_name: Tensor, hidden: object = None) -> Tensor:
        """Computes the logits of all classes for queries ``[b, d]``, shape ``[c, b]``.

        A class that has neither images nor a name that it could start from has -inf.
        """
        logits = (self.weights @ by_image.T).mul_(self.scale)
        logits[self.is_missing] = -torch.inf
        return logits


class _Objective:
    """The loss and its gradient, over blocks of images.

    Args:
        support: The images.
        penalties: Of each class, shape ``[c]``.
        scale: Factor of the products.
        device: Where they are computed.
    """

    def __init__(self, support: Support, penalties: np.ndarray, scale: float, device: torch.device):
        arrays = support.xb, support.classes, support.prototypes, penalties
        self.xb, self.classes, self.start, self.penalties = (torch.from_numpy(a).to(device) for a in arrays)
        self.scale, self.step = scale, max(1, _HELD // len(support.labels))
        # A class without images has nothing to say against its name.
        self.is_fitted = torch.from_numpy(support.counts > 0).to(device)

    def __call__(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the loss and its gradient in the weights, ``[c, d]``."""
        count, moved = len(self.xb), weights - self.start
        loss = (self.penalties * moved.square().sum(1)).sum()
        gradient = 2 * self.penalties[:, None] * moved
        for start in range(0, count, self.step):
            x, y = self.xb[start : start + self.step], self.classes[start : start + self.step]
            logs = (x @ weights.T).mul_(self.scale).log_softmax(1)
            rows = torch.arange(len(x), device=x.device)
            loss = loss - logs[rows, y].sum() / count
            errors = logs.exp_()
            errors[rows, y] -= 1
            gradient.addmm_(errors.T, x, alpha=self.scale / count)
        return loss, gradient.mul_(self.is_fitted[:, None])


@torch.no_grad()
def class_penalties(support: Support, device: torch.device) -> np.ndarray:
    """Computes CLAP's lambda: the mean zero-shot probability of each class over its own images, float32, ``[c]``."""
    prototypes = torch.from_numpy(support.prototypes).to(device)
    totals = torch.zeros(len(support.labels), device=device)
    step = max(1, _HELD // len(support.labels))
    for start in range(0, len(support), step):
        x, y = (torch.from_numpy(a[start : start + step]).to(device) for a in (support.xb, support.classes))
        probabilities = (x @ prototypes.T).mul_(support.scale).softmax(1)
        totals.index_add_(0, y, probabilities[torch.arange(len(x), device=device), y])
    return (totals.cpu().numpy() / np.maximum(support.counts, 1)).astype(np.float32)


@torch.no_grad()
def fit_probe(support: Support, strength: float, device: torch.device) -> np.ndarray:
    """Fits the weights.

    Args:
        support: The images and the weights to start from.
        strength: Factor of the penalty.
        device: Where they are fitted.

    Returns:
        np.ndarray: float32, shape ``[c, d]``.
    """
    penalties = np.float32(strength) * class_penalties(support, device)
    return minimise(_Objective(support, penalties, support.scale, device))


def minimise(objective: _Objective) -> np.ndarray:
    """Minimises the objective by L-BFGS, from its start."""
    weights = torch.nn.Parameter(objective.start.clone())
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=ITERATIONS,
        tolerance_grad=_TOLERANCE * max(1.0, 2 * float(objective.penalties.max())),
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss, weights.grad = objective(weights.detach())
        return loss

    with full_precision(weights.device):
        optimizer.step(closure)
    return weights.detach().cpu().numpy()
