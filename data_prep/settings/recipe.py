"""The complete recipe: its sections, and checks that span several of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from data_prep.settings.data import DataArgs
from data_prep.settings.detection import DetectionArgs
from data_prep.settings.discover import DiscoverArgs
from data_prep.settings.evaluation import EvalArgs
from data_prep.settings.mining import MiningArgs
from data_prep.settings.modes import POINTWISE, SCORED
from data_prep.settings.nano import NanoArgs
from data_prep.settings.ranker import RankerArgs
from data_prep.settings.retriever import RetrieverArgs
from data_prep.settings.training import OptimArgs, TrackingArgs, TrainerArgs
from data_prep.settings.validate import check, one_of


@dataclass
class Recipe:
    """All settings of a run."""

    task: str = MISSING
    """What is trained: ``ranker``, ``retriever``, ``projector`` (an MLLM's projector, on class names), ``nano_clip`` or
    ``nano_mllm``. Required."""
    out: str = MISSING
    """Folder of the run. Required."""
    cache: str = "cache"
    """Folder for intermediate results that stages and runs share."""
    seed: int = 0
    """Seed of the training, 0 to 2^32 - 1."""
    data: DataArgs = field(default_factory=DataArgs)
    """The data set."""
    retriever: RetrieverArgs = field(default_factory=RetrieverArgs)
    """The CLIP encoder, its memory and its search."""
    mining: MiningArgs = field(default_factory=MiningArgs)
    """Mining of ranking examples."""
    ranker: RankerArgs = field(default_factory=RankerArgs)
    """The MLLM and its adapter."""
    optim: OptimArgs = field(default_factory=OptimArgs)
    """The optimiser."""
    trainer: TrainerArgs = field(default_factory=TrainerArgs)
    """Devices, precision, validation and checkpoints."""
    tracking: TrackingArgs = field(default_factory=TrackingArgs)
    """Experiment trackers."""
    eval: EvalArgs = field(default_factory=EvalArgs)
    """Evaluation."""
    discover: DiscoverArgs = field(default_factory=DiscoverArgs)
    """Vocabulary-free recognition."""
    detection: DetectionArgs = field(default_factory=DetectionArgs)
    """Detection."""
    nano: NanoArgs = field(default_factory=NanoArgs)
    """Training of the embedded models."""

    def __post_init__(self) -> None:
        for key, folder in (("out", self.out), ("cache", self.cache)):
            check(bool(folder), f"{key}=: give a folder (. is the working folder)")
        check(0 <= self.seed < 2**32, f"seed={self.seed}: must be in 0..{2**32 - 1}")
        one_of("task", self.task, ("ranker", "retriever", "projector", "nano_clip", "nano_mllm"))
        may_lack_answer = self.mining.ground_truth == "keep_without" and not self.mining.none_of_these
        objectives = self.ranker.objectives
        check(
            not may_lack_answer or objectives.weights.keys() <= {"list", "listwise"},
            "mining.ground_truth=keep_without: letters, likelihood, yes_no and rewards need a right answer in every "
            "example; add mining.none_of_these=true, or train on the list alone (ranker.objectives.letters=0 and "
            ".likelihood=0)",
        )
        check(
            self.mining.target != "truth_only" or objectives.listwise == 0,
            "mining.target=truth_only: ranker.objectives.listwise needs an order; set truth_first or graded",
        )
        check(
            not (self.optim.fused and self.trainer.precision == "16-mixed" and self.trainer.grad_clip_norm),
            "optim.fused=true: a fused step applies float16 gradients before they are clipped; set optim.fused=false, "
            "trainer.grad_clip_norm=0, or trainer.precision=bf16-mixed",
        )
        shards_weights = self.trainer.zero_stage == 3
        alternative = "set trainer.strategy=deepspeed_stage_2 or ddp"
        check(
            not (shards_weights and self.ranker.quantize == "4bit"),
            f"ranker.quantize=4bit: stage 3 shards weights, and would read packed 4-bit ones wrongly; {alternative}",
        )
        check(
            not (shards_weights and self.trainer.feature_cache),
            "trainer.feature_cache=true: under stage 3 all processes must gather the sharded weights together, and one "
            f"whose features are cached would not take part; set it to false, or {alternative}",
        )
        check(
            not (self.mining.streaming and self.optim.group_by_length),
            "optim.group_by_length: the lengths in a stream are unknown; set mining.streaming=false",
        )
        mode, args = self.ranker.mode, self.eval
        check(
            args.classes == "all" or self.data.name != "armory",
            f"eval.classes={args.classes}: does not apply to armory, whose train, val and test have different classes",
        )
        check(
            args.classes != "new" or args.split != "val" or self.data.tune_classes == "all",
            "eval.classes=new: with data.tune_classes=base no validation image is of a new class; evaluate test",
        )
        has_letters = mode != "letters" or args.fixed_k <= 26
        check(has_letters, f"eval.k={args.k}: mode letters has 26 letters; lower eval.k, or rank by likelihood")
        lists_candidates = not args.show_exemplars or mode not in POINTWISE
        check(lists_candidates, f"eval.show_exemplars=true: mode {mode} lists no candidates; rank by another mode")
        if mode not in SCORED:
            reason = f"ranker.mode={mode} gives no probabilities; rank by {' or '.join(SCORED)}"
            averages = args.fixed_permutations > 1 and args.aggregate == "mean"
            check(not averages, f"eval.aggregate=mean: {reason}, or aggregate by borda or kemeny")
            check(not args.fusion, f"eval.fusion=true: {reason}")
            check(not args.open_set_fraction, f"eval.open_set_fraction={args.open_set_fraction}: {reason}")

    @property
    def fuses(self) -> bool:
        """Whether an evaluation fuses the ranker with the retriever."""
        return self.ranker.mode in SCORED if self.eval.fusion is None else self.eval.fusion
