"""The recipe as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from data_prep.settings.data import DataArgs
from data_prep.settings.detection import DetectionArgs
from data_prep.settings.discover import DiscoverArgs
from data_prep.settings.evaluation import EvalArgs
from data_prep.settings.mining import MiningArgs
from data_prep.settings.modes import SCORED
from data_prep.settings.nano import NanoArgs
from data_prep.settings.ranker import RankerArgs
from data_prep.settings.retriever import RetrieverArgs
from data_prep.settings.training import OptimArgs, TrackingArgs, TrainerArgs
from data_prep.settings.validate import check, one_of


@dataclass
class Recipe:
    """Everything that decides a run."""

    task: str = MISSING
    """``ranker``, ``retriever``, ``projector`` (an MLLM's, on names), ``nano_clip`` or ``nano_mllm``."""
    out: str = MISSING
    """The run's folder."""
    cache: str = "cache"
    """Folder for what stages make and share."""
    seed: int = 0
    data: DataArgs = field(default_factory=DataArgs)
    retriever: RetrieverArgs = field(default_factory=RetrieverArgs)
    mining: MiningArgs = field(default_factory=MiningArgs)
    ranker: RankerArgs = field(default_factory=RankerArgs)
    optim: OptimArgs = field(default_factory=OptimArgs)
    trainer: TrainerArgs = field(default_factory=TrainerArgs)
    tracking: TrackingArgs = field(default_factory=TrackingArgs)
    eval: EvalArgs = field(default_factory=EvalArgs)
    discover: DiscoverArgs = field(default_factory=DiscoverArgs)
    detection: DetectionArgs = field(default_factory=DetectionArgs)
    nano: NanoArgs = field(default_factory=NanoArgs)

    def __post_init__(self) -> None:
        for key, folder in (("out", self.out), ("cache", self.cache)):
            check(bool(folder), f"{key}=: give a folder; . for this one")
        check(0 <= self.seed < 2**32, f"seed={self.seed}: must lie in 0..{2**32 - 1}")
        one_of("task", self.task, ("ranker", "retriever", "projector", "nano_clip", "nano_mllm"))
        answerless = self.mining.ground_truth == "keep_without" and not self.mining.none_of_these
        objectives = self.ranker.objectives
        check(
            not answerless or (objectives.letters == 0 and objectives.likelihood == 0),
            "mining.ground_truth=keep_without: letters and likelihood need a right answer in every example; add "
            "mining.none_of_these=true, or train on the list alone (ranker.objectives.letters=0 and .likelihood=0)",
        )
        check(
            self.mining.target != "truth_only" or objectives.listwise == 0,
            "mining.target=truth_only: ranker.objectives.listwise needs an order; take truth_first or graded",
        )
        check(
            not (self.optim.fused and self.trainer.precision == "16-mixed" and self.trainer.grad_clip_norm),
            "optim.fused=true: a fused step takes float16's gradients before they are clipped; set optim.fused=false, "
            "trainer.grad_clip_norm=0, or trainer.precision=bf16-mixed",
        )
        split, instead = self.trainer.strategy == "deepspeed_stage_3", "set trainer.strategy=deepspeed_stage_2 or ddp"
        check(
            not (split and self.ranker.quantize == "4bit"),
            f"ranker.quantize=4bit: stage 3 splits weights, and packed ones are read wrongly then; {instead}",
        )
        check(
            not (split and self.trainer.feature_cache),
            "trainer.feature_cache=true: processes gather weights that stage 3 splits together, and one that has its "
            f"features would not come; set it to false, or {instead}",
        )
        check(
            not (self.mining.streaming and self.optim.group_by_length),
            "optim.group_by_length: a stream's lengths are not known; set mining.streaming=false",
        )
        mode, args = self.ranker.mode, self.eval
        fits = mode != "letters" or args.k <= 26
        check(fits, f"eval.k={args.k}: mode letters has 26 letters; lower eval.k, or rank by likelihood")
        shown = not args.show_exemplars or mode != "likelihood"
        check(shown, "eval.show_exemplars=true: mode likelihood shows no candidates; rank by another mode")
        if mode not in SCORED:
            said = f"ranker.mode={mode} gives no probabilities; rank by {' or '.join(SCORED)}"
            averaged = args.permutations > 1 and args.aggregate == "mean"
            check(not averaged, f"eval.aggregate=mean: {said}, or aggregate by borda or kemeny")
            check(not args.fusion, f"eval.fusion=true: {said}")
            check(not args.open_set_fraction, f"eval.open_set_fraction={args.open_set_fraction}: {said}")
