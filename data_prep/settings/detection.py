"""Settings of detection: whose boxes, which scores, and the embedded scenes."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.validate import bounded, check, one_of

FORMATS = ("coco", "lvis", "v3det")
"""Layouts of annotation files; each has its rules of scoring."""

POLICIES = (
    "clip_score_permuted",
    "ranker_probability",
    "product",
    "geometric_mean",
    "reciprocal_rank",
    "detector_score",
    "retriever",
)
"""How a box's ranking becomes scores of its classes (``eval/detection/score_policies.py``)."""


@dataclass
class SceneArgs:
    """Armory's scenes: several shields on a background, with boxes. Classes are those of ``data.armory``."""

    size: int = 320
    """Width and height of a scene in pixels."""
    shields: list[int] = field(default_factory=lambda: [1, 6])
    """Fewest and most shields in a scene."""
    sides: list[int] = field(default_factory=lambda: [20, 160])
    """Least and greatest longer side of a shield in pixels; drawn evenly on a logarithmic scale."""
    overlap: float = 0.15
    """Most that two shields' boxes share, over the smaller box's area."""
    rare: int = 1
    """Shields of each rare class, in all scenes; a third of the classes are rare."""
    common: int = 3
    """Shields of each common class; another third."""
    frequent: int = 9
    """Shields of each frequent class."""

    def __post_init__(self) -> None:
        bounded("detection.scenes", self, {"size": 64, "rare": 1, "overlap": 0}, {"overlap": 1})
        check(
            self.rare < self.common < self.frequent,
            f"detection.scenes: rare={self.rare}, common={self.common}, frequent={self.frequent} must rise",
        )
        for key, least, most in (("shields", 1, 50), ("sides", 8, self.size // 2)):
            value = list(getattr(self, key))
            check(
                len(value) == 2 and least <= value[0] <= value[1] <= most,
                f"detection.scenes.{key}={value}: give the least and the greatest, within {least}..{most}",
            )


@dataclass
class DetectionArgs:
    """The protocol of ``eval.detection``."""

    annotations: str | None = None
    """Annotation file; without one, armory's scenes of ``eval.split``."""
    images: str | None = None
    """Folder that the annotation file's image names are relative to."""
    detections: str | None = None
    """A detector's results, a COCO-style JSON list, whose boxes are named anew; without, the annotated boxes are."""
    format: str = "coco"
    """The annotation file's layout, and with it the rules of scoring: ``coco``, ``lvis`` (v1) or ``v3det``."""
    synonyms: bool = False
    """The memory of names holds an LVIS class's synonyms too; a class is as near as its nearest name."""
    policy: str = "ranker_probability"
    """How a box's ranking becomes scores; one of ``POLICIES``. The default had the best AP on armory's development
    scenes, as docs/detection.md shows."""
    temperature: float = 0.01
    """Similarities are divided by it before the softmax over all classes that gives the retriever's probabilities."""
    score_threshold: float = 0.0001
    """Detections that score less are dropped."""
    nms_iou: float = 0.5
    """Of two detections of one class whose boxes overlap by more (IoU), the lower is dropped; 1 keeps all."""
    max_dets: int = 300
    """Detections kept in an image, the best."""
    max_proposals: int = 300
    """A detector's boxes used in an image, the best; a box that it names twice counts once."""
    scenes: SceneArgs = field(default_factory=SceneArgs)

    def __post_init__(self) -> None:
        one_of("detection.format", self.format, FORMATS)
        one_of("detection.policy", self.policy, POLICIES)
        bounded(
            "detection", self, {"score_threshold": 0, "max_dets": 1, "max_proposals": 1, "nms_iou": 0}, {"nms_iou": 1}
        )
        check(self.temperature > 0, f"detection.temperature={self.temperature}: must be above 0")
        check(
            self.annotations is None or self.images is not None,
            "detection.annotations needs detection.images, the folder that its images lie in",
        )
        check(
            self.annotations is not None or (self.images is None and self.detections is None),
            "detection.images and detection.detections need detection.annotations",
        )
