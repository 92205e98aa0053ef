"""Settings of detection (section ``detection``): source of the boxes, scoring, and armory's scenes."""

from __future__ import annotations

from dataclasses import dataclass, field

from data_prep.settings.validate import bounded, check, one_of

FORMATS = ("coco", "lvis", "v3det")
"""Annotation file layouts; each has its own scoring rules."""

POLICIES = (
    "clip_score_permuted",
    "ranker_probability",
    "product",
    "geometric_mean",
    "reciprocal_rank",
    "detector_score",
    "retriever",
)
"""Ways to turn the ranking of a box into class scores (``eval/detection/score_policies.py``)."""


@dataclass
class SceneArgs:
    """Armory's detection scenes: several shields on a background, with boxes. The classes are those of
    ``data.armory``."""

    size: int = 320
    """Width and height of a scene, in pixels, at least 64."""
    shields: list[int] = field(default_factory=lambda: [1, 6])
    """Minimum and maximum number of shields in a scene, within 1 to 50."""
    sides: list[int] = field(default_factory=lambda: [20, 160])
    """Minimum and maximum length of a shield's longer side, in pixels (8 to half of ``size``); sampled
    log-uniformly."""
    overlap: float = 0.15
    """Maximum overlap of two shields' boxes, as a fraction (0 to 1) of the smaller box's area."""
    rare: int = 1
    """Number of shields of each rare class over all scenes, at least 1; a third of the classes are rare."""
    common: int = 3
    """Number of shields of each common class, more than ``rare``; a third of the classes are common."""
    frequent: int = 9
    """Number of shields of each frequent class, more than ``common``; a third of the classes are frequent."""

    def __post_init__(self) -> None:
        bounded("detection.scenes", self, {"size": 64, "rare": 1, "overlap": 0}, {"overlap": 1})
        check(
            self.rare < self.common < self.frequent,
            f"detection.scenes: rare={self.rare}, common={self.common}, frequent={self.frequent} must rise",
        )
        for key, minimum, maximum in (("shields", 1, 50), ("sides", 8, self.size // 2)):
            value = list(getattr(self, key))
            check(
                len(value) == 2 and minimum <= value[0] <= value[1] <= maximum,
                f"detection.scenes.{key}={value}: give the least and the greatest, within {minimum}..{maximum}",
            )


@dataclass
class DetectionArgs:
    """Protocol of ``eval.detection``."""

    annotations: str | None = None
    """Path of the annotation file. Null: armory's scenes of ``eval.split``."""
    images: str | None = None
    """Folder that the image names in the annotation file are relative to; required with ``annotations``."""
    detections: str | None = None
    """Path of a detector's results, a COCO-style JSON list, whose boxes are classified again. Null: the annotated boxes
    are classified."""
    format: str = "coco"
    """Layout of the annotation file, which also sets the scoring rules: ``coco``, ``lvis`` (v1) or ``v3det``."""
    synonyms: bool = False
    """Adds the synonyms of LVIS classes to the text memory; a class scores as its most similar name."""
    policy: str = "ranker_probability"
    """How the ranking of a box becomes class scores: ``clip_score_permuted``, ``ranker_probability``, ``product``,
    ``geometric_mean``, ``reciprocal_rank``, ``detector_score`` or ``retriever`` (docs/detection.md explains them). The
    default had the best AP on armory's validation scenes."""
    temperature: float = 0.01
    """Softmax temperature, above 0: similarities are divided by it before the softmax over all classes that gives the
    retriever's probabilities."""
    score_threshold: float = 0.0001
    """Detections with a lower score are dropped; at least 0."""
    nms_iou: float = 0.5
    """IoU threshold of non-maximum suppression, 0 to 1: of two detections of one class that overlap more, the one with
    the lower score is dropped; 1 keeps all."""
    max_dets: int = 300
    """Maximum number of detections kept per image, highest scores first."""
    max_proposals: int = 300
    """Maximum number of a detector's boxes used per image, highest scores first; a box listed with two classes counts
    once."""
    scenes: SceneArgs = field(default_factory=SceneArgs)
    """Settings of armory's scenes, used without ``annotations``."""

    def __post_init__(self) -> None:
        one_of("detection.format", self.format, FORMATS)
        one_of("detection.policy", self.policy, POLICIES)
        bounded(
            "detection", self, {"score_threshold": 0, "max_dets": 1, "max_proposals": 1, "nms_iou": 0}, {"nms_iou": 1}
        )
        check(self.temperature > 0, f"detection.temperature={self.temperature}: must be above 0")
        check(
            self.annotations is None or self.images is not None,
            "detection.annotations needs detection.images, the folder of its images",
        )
        check(
            self.annotations is not None or (self.images is None and self.detections is None),
            "detection.images and detection.detections need detection.annotations",
        )
