"""The paper's published results (arXiv 2403.13805), and their comparison with measured ones.

Few-shot: top-1 in per cent with LLaVA-1.5 as ranker. Fine-grained: cACC and sACC in per cent. Detection: AP on
ground-truth boxes. Results are compared only where data set, shots and method are the same; the encoder and the ranker
may differ, so a difference is for orientation and no replication by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

SOURCE = "arXiv 2403.13805"
"""The paper whose results these are; those of others are in ``eval.metrics.elsewhere``."""

FEW_SHOT_ORDER = (
    "imagenet",
    "caltech101",
    "raf_db",
    "sun397",
    "eurosat",
    "dtd",
    "ucf101",
    "oxford_flowers",
    "stanford_cars",
    "food101",
    "oxford_pets",
    "average",
)


def _row(*metrics: float) -> dict[str, float]:
    return dict(zip(FEW_SHOT_ORDER, metrics, strict=True))


FEW_SHOT: dict[tuple[int, str], dict[str, float]] = {
    (4, "clip_knn"): _row(42.1, 87.9, 14.2, 51.4, 67.6, 47.5, 64.6, 84.5, 49.2, 62.6, 55.6, 57.0),
    (4, "rar"): _row(51.0, 92.1, 27.7, 58.8, 74.8, 53.9, 69.6, 80.4, 54.4, 71.4, 60.9, 63.2),
    (8, "clip_knn"): _row(47.6, 90.6, 28.2, 56.8, 72.8, 53.2, 68.3, 89.5, 56.1, 68.3, 61.8, 63.0),
    (8, "rar"): _row(56.5, 93.5, 46.9, 63.4, 81.5, 59.3, 74.3, 87.3, 61.2, 76.6, 67.7, 69.8),
}
"""Top-1 by shots and method, then by data set."""

FEW_SHOT_GAIN = {1: 7.4, 2: 6.8, 4: 6.2, 8: 6.8, 16: 6.3}
"""Mean gain of RAR over CLIP+KNN in points, by shots."""

FULL_TRAIN_MEMORY = {"LLaVA-1.5": 81.0, "InternLM-XComposer2": 79.0, "Qwen-VL": 82.6, "GPT-4V": 68.4}
"""Average top-1 with the full training set as memory, by ranker."""

BY_K = {3: 84.76, 4: 84.96, 5: 85.19, 6: 84.96, 7: 84.90}
"""Average top-1 over four data sets, by the number of candidates."""

FINE_GRAINED: dict[str, dict[str, tuple[float, float]]] = {
    "WordNet+CLIP": {
        "cub200": (39.3, 57.7),
        "cars196": (18.3, 33.3),
        "dogs120": (53.9, 70.6),
        "flowers102": (42.1, 49.8),
        "pets37": (55.4, 61.9),
        "average": (41.8, 54.7),
    },
    "BLIP-2": {
        "cub200": (30.9, 56.8),
        "cars196": (43.1, 57.9),
        "dogs120": (39.0, 58.6),
        "flowers102": (61.9, 59.1),
        "pets37": (61.3, 60.5),
        "average": (47.2, 58.6),
    },
    "CaSED": {
        "cub200": (25.6, 50.1),
        "cars196": (26.9, 41.4),
        "dogs120": (38.0, 55.9),
        "flowers102": (67.2, 52.3),
        "pets37": (60.9, 63.6),
        "average": (43.7, 52.6),
    },
    "FineR": {
        "cub200": (51.1, 69.5),
        "cars196": (49.2, 63.5),
        "dogs120": (48.1, 64.9),
        "flowers102": (63.8, 51.3),
        "pets37": (72.9, 72.4),
        "average": (57.0, 64.3),
    },
    "RAR": {
        "cub200": (51.6, 69.5),
        "cars196": (53.2, 63.6),
        "dogs120": (50.0, 65.2),
        "flowers102": (63.7, 53.2),
        "pets37": (74.1, 74.8),
        "average": (58.5, 65.3),
    },
}
"""(cACC, sACC) by method and data set."""

LVIS = {
    "CLIP": {"APr": 40.6, "APc": 53.1, "APf": 59.2, "AP": 48.7},
    "RegionCLIP": {"APr": 50.1, "APc": 50.1, "APf": 51.7, "AP": 50.7},
    "RAR LLaVA-1.5": {"APr": 58.7, "APc": 57.9, "APf": 54.4, "AP": 56.2},
    "RAR Qwen-VL": {"APr": 59.6, "APc": 57.5, "APf": 53.7, "AP": 56.4},
    "RAR InternLM-XC2": {"APr": 60.2, "APc": 58.0, "APf": 54.3, "AP": 57.1},
}
"""LVIS v1 val on ground-truth boxes. CLIP's AP does not follow from its parts, so it is not a strict target."""

V3DET = {
    "CLIP": {"APs": 7.2, "APm": 12.9, "APl": 12.8, "AP": 9.8},
    "RAR LLaVA-1.5": {"APs": 9.9, "APm": 13.2, "APl": 13.9, "AP": 11.1},
    "RAR Qwen-VL": {"APs": 9.6, "APm": 12.7, "APl": 13.7, "AP": 10.8},
    "RAR InternLM-XC2": {"APs": 10.1, "APm": 13.1, "APl": 14.5, "AP": 11.3},
}
"""V3Det val on ground-truth boxes."""


def published(task: str, dataset: str, method: str, shots: int = 0) -> dict[str, float]:
    """Looks up the paper's results in per cent for a measured row; empty where it has none.

    Args:
        task: ``few_shot``, ``fine_grained`` or ``detection``.
        dataset: A name of ``READERS``, ``average``, ``lvis`` or ``v3det``.
        method: ``clip_knn`` or ``rar`` in few-shot; otherwise the row's name in the paper.
        shots: Images per class.

    Returns:
        dict[str, float]: By metric: ``top1``; ``cacc`` and ``sacc``; or the names of APs.
    """
    if task == "few_shot":
        row = FEW_SHOT.get((shots, method), {})
        return {"top1": row[dataset]} if dataset in row else {}
    if task == "fine_grained":
        pair = FINE_GRAINED.get(method, {}).get(dataset)
        return dict(zip(("cacc", "sacc"), pair, strict=True)) if pair else {}
    if task == "detection":
        return dict({"lvis": LVIS, "v3det": V3DET}.get(dataset, {}).get(method, {}))
    return {}


def add_published(measured: Iterable[dict]) -> list[dict]:
    """Compares measured metrics with the paper's.

    Args:
        measured: Rows with ``task``, ``dataset``, ``method``, ``shots`` where it applies, and ``figures``: values in
            per cent by the metric names that ``published`` returns.

    Returns:
        list[dict]: A row per measured metric that the paper reports (``figure``): ``measured``, ``published`` and
        ``difference`` in points, measured minus published.
    """
    rows = []
    for row in measured:
        reported = published(row["task"], row["dataset"], row["method"], row.get("shots", 0))
        head = {key: row[key] for key in ("task", "dataset", "method", "shots") if key in row}
        for metric, value in reported.items():
            if metric in row["figures"]:
                ours = row["figures"][metric]
                comparison = {"measured": ours, "published": value, "difference": ours - value}
                rows.append(head | {"figure": metric} | comparison)
    return rows
