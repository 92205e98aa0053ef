"""All settings of a recipe, with type, default, validation and documentation; one file per group of sections.

They are in the lowest package because every command reads the complete recipe: even the data stages
must reject a misspelt key, whichever section it is in.
"""

from data_prep.settings.data import ArmoryArgs, DataArgs, EmojiArgs
from data_prep.settings.detection import FORMATS, POLICIES, DetectionArgs, SceneArgs
from data_prep.settings.discover import DiscoverArgs
from data_prep.settings.evaluation import EvalArgs
from data_prep.settings.mining import TARGETS, MiningArgs, MixArgs
from data_prep.settings.modes import ADAPTERS, MODES, POINTWISE, SCORED, SOURCES
from data_prep.settings.nano import NanoArgs
from data_prep.settings.ranker import REWARDED, LoraArgs, ObjectiveArgs, RankerArgs, RewardArgs
from data_prep.settings.recipe import Recipe
from data_prep.settings.retriever import HnswArgs, IvfArgs, RegionArgs, RetrieverArgs, TuningArgs
from data_prep.settings.server import ServerArgs
from data_prep.settings.training import OptimArgs, TrackingArgs, TrainerArgs
from data_prep.settings.validate import check

__all__ = [
    "ADAPTERS",
    "FORMATS",
    "MODES",
    "POINTWISE",
    "POLICIES",
    "REWARDED",
    "SCORED",
    "SOURCES",
    "TARGETS",
    "ArmoryArgs",
    "DataArgs",
    "DetectionArgs",
    "DiscoverArgs",
    "EmojiArgs",
    "EvalArgs",
    "HnswArgs",
    "IvfArgs",
    "LoraArgs",
    "MiningArgs",
    "MixArgs",
    "NanoArgs",
    "ObjectiveArgs",
    "OptimArgs",
    "RankerArgs",
    "Recipe",
    "RegionArgs",
    "RetrieverArgs",
    "RewardArgs",
    "SceneArgs",
    "ServerArgs",
    "TrackingArgs",
    "TrainerArgs",
    "TuningArgs",
    "check",
]
