"""Settings of the ranker (section ``ranker``)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from data_prep.settings.modes import MODES
from data_prep.settings.server import ServerArgs
from data_prep.settings.validate import bounded, check, one_of

SCOPES = ("language", "language+projector", "language+projector+vision")
ATTENTION = ("sdpa", "eager", "flash_attention_2")
REWARDED = ("reward_letters", "reward_likelihood", "reward_yes_no")
OBJECTIVES = ("letters", "likelihood", "yes_no", "list", "listwise", *REWARDED)
REWARDS = ("reciprocal_rank", "top1")
LISTWISE = ("ranknet", "listmle", "softmax")
YES_NO = ("softmax", "binary")


@dataclass
class LoraArgs:
    """The LoRA adapter."""

    rank: int = 16
    """Rank of the adapter matrices, at least 1."""
    alpha: int = 32
    """Scaling numerator, at least 1: the update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout probability on the adapter's input, 0 to 0.99."""
    scope: str = "language"
    """Parts of the model to adapt: ``language``, ``language+projector`` or ``language+projector+vision``. A vision
    tower out of scope stays frozen."""
    target_modules: str | None = None
    """Regular expression of the modules to adapt instead of the scope's, such as ``.*language_model.*\\.[qv]_proj``.
    Null: the scope's modules."""
    projector: str = "lora"
    """How a projector in scope is trained: ``lora``, or ``full`` (all its weights, which are then stored in the
    adapter)."""
    dora: bool = False
    """Uses weight-decomposed adaptation (DoRA, arXiv 2402.09353), which also learns a magnitude for each direction."""
    rslora: bool = False
    """Scales by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732) instead of alpha / rank."""

    def __post_init__(self) -> None:
        bounded("ranker.lora", self, {"rank": 1, "alpha": 1, "dropout": 0}, {"dropout": 0.99})
        one_of("ranker.lora.scope", self.scope, SCOPES)
        one_of("ranker.lora.projector", self.projector, ("lora", "full"))
        if self.target_modules is not None:
            try:
                re.compile(self.target_modules)
            except re.error as error:
                check(False, f"ranker.lora.target_modules={self.target_modules}: not a regular expression ({error})")


@dataclass
class RewardArgs:
    """The reward that the objectives ``reward_…`` train for."""

    metric: str = "reciprocal_rank"
    """Reward of a sampled order: ``reciprocal_rank`` of the true class, or ``top1``, 1 where it is first and else
    0."""
    samples: int = 8
    """Orders sampled per image, at least 2; each is compared with the mean of the others."""
    kl: float = 0.01
    """Weight of the KL divergence from the base model, at least 0; above 0 the base model, the adapter switched off,
    scores each batch too."""

    def __post_init__(self) -> None:
        one_of("ranker.objectives.reward.metric", self.metric, REWARDS)
        bounded("ranker.objectives.reward", self, {"samples": 2, "kl": 0})


@dataclass
class ObjectiveArgs:
    """Loss weights; their weighted sum is trained. None may be negative, one must be above 0; a loss of weight 0 is
    skipped."""

    letters: float = 1.0
    """Weight of the cross-entropy over the candidates' letters."""
    likelihood: float = 1.0
    """Weight of the cross-entropy over the log-likelihoods of the candidates' names."""
    yes_no: float = 0.0
    """Weight of a loss on each candidate's log-odds of ``yes`` against ``no``."""
    yes_no_loss: str = "softmax"
    """Loss of ``yes_no``: ``softmax`` (cross-entropy of the true candidate over the log-odds) or ``binary`` (yes for
    the true class, no for each other candidate)."""
    list: float = 0.0
    """Weight of the paper's loss: language-model loss on the sorted list, true class first."""
    listwise: float = 0.0
    """Weight of a ranking loss on the letters' logits against the complete target order: true class first, then the
    others as retrieved."""
    listwise_loss: str = "ranknet"
    """Ranking loss of ``listwise``: ``ranknet`` (with FIRST's weights, arXiv 2406.15657), ``listmle`` or
    ``softmax``."""
    reward_letters: float = 0.0
    """Weight of a policy gradient: orders are sampled from the letters' probabilities (Plackett-Luce) and rewarded."""
    reward_likelihood: float = 0.0
    """The same with the names' likelihoods."""
    reward_yes_no: float = 0.0
    """The same with the names' log-odds of ``yes`` against ``no``."""
    reward: RewardArgs = field(default_factory=RewardArgs)
    """What is rewarded, and how."""

    @property
    def weights(self) -> dict[str, float]:
        """The objectives in use, by name."""
        return {name: getattr(self, name) for name in OBJECTIVES if getattr(self, name) > 0}

    def __post_init__(self) -> None:
        weights = [getattr(self, name) for name in OBJECTIVES]
        check(min(weights) >= 0 and max(weights) > 0, "ranker.objectives: none may be below 0, one must be above 0")
        one_of("ranker.objectives.listwise_loss", self.listwise_loss, LISTWISE)
        one_of("ranker.objectives.yes_no_loss", self.yes_no_loss, YES_NO)


@dataclass
class RankerArgs:
    """The MLLM, its adapter and how it ranks."""

    model: str = "nano-mllm"
    """MLLM to use: ``nano-mllm`` (embedded), a Hugging Face name, or a model folder."""
    dtype: str = "float32"
    """Data type of the base model's weights: ``float32``, ``bfloat16`` or ``float16``. The adapter is always
    float32."""
    quantize: str = "none"
    """Quantisation of the base model: ``none``, or ``4bit`` (NF4, as in QLoRA, arXiv 2305.14314), which needs CUDA and
    bitsandbytes and excludes ``deepspeed_stage_3``."""
    max_pixels: int | None = None
    """Maximum number of pixels per image, for model families that take images of any size. Null: the processor's
    default."""
    max_tokens: int | None = None
    """Maximum number of tokens of a conversation, image and answer included; a longer example is left out and counted,
    never truncated. Null: the model's context length."""
    descriptions: bool = False
    """Shows the first description of each candidate (``data.descriptions``) beside its name in the prompts, in training
    and in evaluation. Prompts of ``likelihood`` show no candidates."""
    reranker_template: str | None = None
    """Chat template of mode ``yes_no`` that renders the image as query and a name as document: ``qwen3_vl`` (that of
    Qwen3-VL-Reranker), the name of one of the model's own templates, or a jinja file. Null: the model's template
    ``reranker`` if it has one, else a question in its ordinary template."""
    instruction: str | None = None
    """Instruction that a reranker's template shows. Null: the template's own."""
    attn_implementation: str | None = None
    """Attention implementation of the language model: ``sdpa``, ``eager`` or ``flash_attention_2``, which needs a
    package of its own and runs the conversations about an image one by one. Null: transformers' default, usually
    ``sdpa``."""
    tree_tokens: int = 2048
    """Number of tokens after the image that one row of a pass holds for the conversations about it, at least 1. More,
    such as the names of hundreds of candidates, are divided into rows of about equal length, each with the image: the
    attention's cost grows with the square of a row's length."""
    lora: LoraArgs = field(default_factory=LoraArgs)
    """The LoRA adapter."""
    objectives: ObjectiveArgs = field(default_factory=ObjectiveArgs)
    """Weights of the training losses."""
    mode: str = "likelihood"
    """How ``eval.run`` ranks: ``likelihood`` (of each name), ``letters`` (probability of each candidate's letter),
    ``yes_no`` (log-odds of yes against no for each name, as pointwise rerankers do), ``constrained`` (list restricted
    to the candidates) or ``generate`` (free text)."""
    backend: str = "local"
    """Where the evaluated ranker runs: ``local``, or ``openai`` (``ranker.server``, which has no modes ``likelihood``
    and ``yes_no``); training is always local."""
    server: ServerArgs = field(default_factory=ServerArgs)
    """The server of ``backend: openai``."""

    @property
    def mode_label(self) -> str:
        """The mode in names of files: a server's scores have another zero than the local model's, so fits are apart."""
        return self.mode if self.backend == "local" else f"{self.mode}-server"

    def __post_init__(self) -> None:
        one_of("ranker.mode", self.mode, MODES)
        one_of("ranker.dtype", self.dtype, ("float32", "bfloat16", "float16"))
        one_of("ranker.quantize", self.quantize, ("none", "4bit"))
        if self.attn_implementation is not None:
            one_of("ranker.attn_implementation", self.attn_implementation, ATTENTION)
        bounded("ranker", self, {"tree_tokens": 1})
        for key, value in (("max_pixels", self.max_pixels), ("max_tokens", self.max_tokens)):
            check(value is None or value >= 1, f"ranker.{key}={value}: must be at least 1, or null")
        has_text = self.instruction is None or bool(self.instruction.strip())
        check(has_text, "ranker.instruction: is empty; give a text, or null for the template's own")
        one_of("ranker.backend", self.backend, ("local", "openai"))
        if self.backend == "openai":
            check(self.server.base_url is not None, "ranker.backend=openai: give ranker.server.base_url=URL")
            reason = {
                "likelihood": "chat completions give no log-likelihood of a text",
                "yes_no": "it would take a request for each candidate",
            }.get(self.mode, "")
            advice = "set ranker.mode=letters, constrained or generate"
            check(not reason, f"ranker.backend=openai: ranker.mode={self.mode}: {reason}; {advice}")
