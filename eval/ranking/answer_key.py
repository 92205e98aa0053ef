"""What answers depend on beside their questions: one key for recognition, detection and discovery."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.files import file_hash, fingerprint, read_json
from data_prep.core.images import VERSION
from data_prep.prompting.prompts import NAMING, letters_prompt, list_prompt, with_examples
from data_prep.settings import RankerArgs
from rar_train.models.mllm import NANO_MLLM

_PROMPTS = (NAMING, letters_prompt(["NAME"]), list_prompt(["NAME"], structured=True), with_examples(""))
_TEXTS = (".json", ".jinja", ".model", ".txt")


def _texts_hash(model: str) -> str:
    """Identifies what lies beside the weights of a base in a folder: configuration, chat template and tokenizer."""
    folder = NANO_MLLM if model == "nano-mllm" else Path(model)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return fingerprint({path.name: file_hash(path) for path in files if path.suffix in _TEXTS})


def models_key(ranker: RankerArgs, adapter: Path) -> str:
    """Identifies the models, every setting that changes an answer of theirs, the prompts, and how pictures are opened.

    The manner of asking and the questions, which hold the pictures' content, are noted with every answer.

    Args:
        ranker: The base model and how it is loaded.
        adapter: The tuned model's; its manifest names the base's weights.
    """
    manifest = read_json(adapter / "manifest.json")
    weights = [manifest["base_model"], manifest["adapter"], file_hash(adapter / "adapter_config.json")]
    loaded = [ranker.model, _texts_hash(ranker.model), ranker.dtype, ranker.quantize, ranker.max_pixels]
    return fingerprint([weights, loaded, VERSION, _PROMPTS])
