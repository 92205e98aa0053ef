"""Results that other papers publish for the same protocols, each with the source in which it was read.

They are for orientation: encoder, model, prompts and sometimes the classes differ. A figure that was read in the paper
that measured it, or in its code repository, is primary. One that another paper or a summary quotes is ``secondary``.
What could not be read in any source is not here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

_COCOOP_SETS = {
    "imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397",
    "dtd", "eurosat", "ucf101",
}  # fmt: skip
"""The eleven data sets over which base-to-new results are averaged."""

MAPLE = "README of MaPLe (github.com/muzairkhattak/multimodal-prompt-learning)"
TWO_STAGES = "summary of 2SFS (arXiv 2503.11609) at papernotes.org"
THINKING = "digest of Think or Not Think (arXiv 2503.16188v1), its table 1"
FINE_R1 = "Fine-R1 (arXiv 2602.07605), table 1"
FINE_R1_ABLATION = "Fine-R1 (arXiv 2602.07605), figure 3a"
FINDR = "summary of FiNDR (arXiv 2512.18897) at papernotes.org"
RAR_V2 = "review of RAR v2 (arXiv 2403.13805v2, doi 10.1109/TIP.2025.3644175)"


@dataclass(frozen=True)
class Elsewhere:
    """A published result.

    Attributes:
        task: ``few_shot``, ``base_to_new``, ``choice`` or ``fine_grained``.
        dataset: A name of ``READERS``, or ``average`` over the task's data sets.
        method: Its name there.
        metrics: In per cent, by name.
        source: Where it was read.
        secondary: Whether that quotes another source, or a method that others ran.
        shots: Images per class, where they are part of the protocol.
        note: What differs from the protocol here.
    """

    task: str
    dataset: str
    method: str
    metrics: dict[str, float]
    source: str
    secondary: bool = False
    shots: int = 0
    note: str = ""

    @property
    def read(self) -> str:
        """Where it was read, and what differs."""
        return f"{'quoted in ' * self.secondary}{self.source}" + (f"; {self.note}" if self.note else "")

    @property
    def text(self) -> str:
        """The result in words, with its source."""
        figures = ", ".join(f"{name} {value:.1f}" for name, value in self.metrics.items())
        return f"{self.method} {figures} ({self.read})"


def _halves(method: str, base: float, new: float, h: float, source: str, secondary: bool) -> Elsewhere:
    return Elsewhere("base_to_new", "average", method, {"base": base, "new": new, "H": h}, source, secondary)


_BASE_TO_NEW = (
    _halves("CLIP ViT-B/16", 69.34, 74.22, 71.70, MAPLE, True),
    _halves("CoOp", 82.69, 63.22, 71.66, MAPLE, True),
    _halves("CoCoOp", 80.47, 71.69, 75.83, MAPLE, True),
    _halves("MaPLe", 82.28, 75.14, 78.55, MAPLE, False),
    _halves("CLIP-LoRA", 85.32, 70.63, 77.28, TWO_STAGES, True),
    _halves("MMA", 83.20, 76.80, 79.87, TWO_STAGES, True),
    _halves("2SFS", 85.55, 75.48, 80.20, TWO_STAGES, True),
    _halves("Qwen2-VL", 62.10, 66.27, 64.12, THINKING, True),
    _halves("Qwen2-VL, SFT", 67.40, 70.73, 69.03, THINKING, True),
    _halves("Qwen2-VL, CLS-RL", 81.17, 79.15, 80.15, THINKING, True),
    _halves("Qwen2-VL, No-Thinking-RL", 83.42, 81.88, 82.64, THINKING, True),
)

CHOICE_SETS = ("fgvc_aircraft", "cub200", "cars196", "dogs120", "flowers102", "pets37", "average")
"""Data sets of four-way choice in Fine-R1's order."""
_SEEN = "random 60 % of the classes are seen, 40 % are not"
_CHOICE: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "SigLIP-L": (
        (67.08, 85.10, 96.03, 86.18, 97.59, 98.02, 88.33),
        (69.35, 74.17, 92.97, 84.44, 69.07, 93.24, 80.54),
    ),
    "Qwen2-VL-7B": (
        (78.27, 67.41, 94.60, 71.70, 93.84, 91.04, 82.81),
        (79.86, 56.25, 89.63, 66.16, 67.47, 78.30, 72.95),
    ),
    "Qwen2.5-VL-3B": (
        (64.24, 65.40, 86.70, 70.51, 94.24, 83.46, 77.43),
        (68.29, 58.98, 80.65, 67.10, 68.74, 87.88, 71.94),
    ),
    "Qwen2.5-VL-7B": (
        (74.28, 70.54, 90.75, 80.19, 96.20, 91.91, 83.98),
        (71.60, 66.29, 84.02, 77.54, 65.63, 93.44, 76.42),
    ),
    "DeepPerception-7B": (
        (83.52, 74.16, 94.89, 80.40, 97.05, 91.91, 86.99),
        (86.48, 61.19, 89.72, 77.85, 72.80, 87.41, 79.24),
    ),
    "Fine-R1-3B": (
        (76.87, 86.79, 92.14, 87.85, 96.25, 93.89, 88.97),
        (75.73, 79.10, 87.40, 80.93, 73.93, 91.36, 81.41),
    ),
    "Fine-R1-7B": (
        (82.32, 90.50, 94.03, 90.11, 97.22, 96.05, 91.71),
        (77.91, 87.54, 87.99, 89.71, 74.12, 96.92, 85.70),
    ),
}
"""Four-way choice by method: seen and unseen classes, by ``CHOICE_SETS``."""

_CHOICE_AVERAGES = {"SFT": (81.41, 65.82), "CLS-RL": (71.51, 71.13), "No-Thinking-RL": (80.86, 71.36)}
"""Averages over the same data sets of Qwen2.5-VL-3B, trained in other ways by Fine-R1's authors."""


def _list_choices() -> list[Elsewhere]:
    rows = [
        Elsewhere("choice", name, method, {"seen": seen, "unseen": unseen}, FINE_R1, note=_SEEN)
        for method, halves in _CHOICE.items()
        for name, seen, unseen in zip(CHOICE_SETS, *halves, strict=True)
    ]
    return rows + [
        Elsewhere("choice", "average", f"Qwen2.5-VL-3B, {method}", {"seen": seen, "unseen": unseen},
                  FINE_R1_ABLATION, True, note=_SEEN)
        for method, (seen, unseen) in _CHOICE_AVERAGES.items()
    ]  # fmt: skip


def _names(dataset: str, method: str, cacc: float, sacc: float) -> Elsewhere:
    return Elsewhere("fine_grained", dataset, method, {"cacc": cacc, "sacc": sacc}, FINDR, True)


def _larger_clip(shots: int, method: str, top1: float) -> Elsewhere:
    note = "with a larger CLIP encoder"
    return Elsewhere("few_shot", "average", method, {"top1": top1}, RAR_V2, True, shots, note)


ELSEWHERE: tuple[Elsewhere, ...] = (
    *_BASE_TO_NEW,
    *_list_choices(),
    _names("average", "E-FineR", 58.4, 66.3),
    _names("average", "FiNDR", 67.9, 70.6),
    _names("pets37", "FiNDR", 86.5, 83.7),
    _larger_clip(4, "CLIP + KNN", 65.0),
    _larger_clip(4, "RAR", 69.9),
    _larger_clip(8, "CLIP + KNN", 70.8),
    _larger_clip(8, "RAR", 75.5),
)
"""All results, by task."""


def elsewhere(task: str, dataset: str, shots: int = 0) -> list[Elsewhere]:
    """Looks up what others publish for a protocol.

    Args:
        task: ``few_shot``, ``base_to_new``, ``choice`` or ``fine_grained``.
        dataset: A name of ``READERS``, or ``average``.
        shots: Images per class; only few-shot results depend on it.
    """
    return [row for row in ELSEWHERE if (row.task, row.dataset, row.shots) == (task, dataset, shots)]


def is_cocoop_average(names: Collection[str]) -> bool:
    """Returns whether data sets are the eleven over which base-to-new results are averaged."""
    return set(names) == _COCOOP_SETS
