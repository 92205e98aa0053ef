"""Cache key of stored answers: models or server, and prompts; shared by recognition, detection and discovery."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.files import file_hash, fingerprint, read_json
from data_prep.core.images import VERSION
from data_prep.core.paths import NANO_MLLM
from data_prep.prompting.prompts import NAMING, letters_prompt, list_prompt, with_exemplars, yes_no_prompt
from data_prep.settings import RankerArgs

_PROMPTS = (
    NAMING,
    letters_prompt(["NAME", "NAME"], ["TEXT", ""]),
    yes_no_prompt("NAME", "TEXT"),
    list_prompt(["NAME"], structured=True, descriptions=["TEXT"]),
    with_exemplars(""),
)
_TEXT_SUFFIXES = (".json", ".jinja", ".model", ".txt")


def _text_files_hash(model: str) -> str:
    """Hashes the files next to the weights of a local base model: configuration, chat template and tokenizer."""
    folder = NANO_MLLM if model == "nano-mllm" else Path(model)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    hashes = {path.name: file_hash(path) for path in files if path.suffix in _TEXT_SUFFIXES and path.is_file()}
    # A reranker's template, and the tokens that sentence-transformers reads, are in folders of their own.
    nested = sorted([*folder.glob("additional_chat_templates/*.jinja"), *folder.glob("*_LogitScore/config.json")])
    return fingerprint(hashes | {str(path.relative_to(folder)): file_hash(path) for path in nested})


def models_key(ranker: RankerArgs, adapter: Path) -> str:
    """Hashes the models, every setting that changes their answers, the prompts, and the version of image decoding.

    The ranking mode and the requests, which hold the hashes of the images, are stored with every answer instead.

    A server is identified by what it says of its models, not by its address: their names and the files that it loaded
    them from. It says nothing of the weights, so other weights need another name or path there.

    Args:
        ranker: The base model and how it is loaded, or its server.
        adapter: The tuned model's adapter; its manifest names the base model's weights.

    Raises:
        UserError: The server does not answer.
    """
    manifest = read_json(adapter / "manifest.json")
    if ranker.backend == "openai":
        from eval.ranking.server_messages import served_identity

        trained = [manifest["base_model"], manifest["adapter"]]
        return fingerprint([trained, served_identity(ranker), _text_files_hash(ranker.model), VERSION, _PROMPTS])
    weights = [manifest["base_model"], manifest["adapter"], file_hash(adapter / "adapter_config.json")]
    loading = [ranker.model, _text_files_hash(ranker.model), ranker.dtype, ranker.quantize, ranker.max_pixels]
    loading += [ranker.attn_implementation, ranker.tree_tokens]
    template = Path(ranker.reranker_template or "")
    loading += [file_hash(template) if template.is_file() else ranker.reranker_template, ranker.instruction]
    return fingerprint([weights, loading, VERSION, _PROMPTS])


def answers_folder(out: Path, ranker: RankerArgs, adapter: Path) -> Path:
    """Returns the folder of the answers in an evaluation's folder: one for each ``models_key``."""
    return out / f"answers-{models_key(ranker, adapter)}"
