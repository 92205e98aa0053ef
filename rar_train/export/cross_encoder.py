"""Files with which sentence-transformers' ``CrossEncoder`` loads a merged reranker and scores as mode ``yes_no``."""

from __future__ import annotations

from pathlib import Path

from data_prep.core.files import write_json
from rar_train.models.mllm import Mllm
from rar_train.rerankers.reranker import Reranker
from rar_train.rerankers.templates import OWN_TEMPLATE

_MODULES = "sentence_transformers"
_SCORE_FOLDER = "1_LogitScore"


def name_template(mllm: Mllm, reranker: Reranker) -> None:
    """Gives the reranker's template its name among the processor's, so that it is saved with them."""
    templates = mllm.processor.chat_template
    templates = templates if isinstance(templates, dict) else {"default": templates}
    text = templates.get(reranker.template, reranker.template)
    mllm.processor.chat_template = templates | {OWN_TEMPLATE: text}


def write_cross_encoder_files(reranker: Reranker, folder: Path) -> None:
    """Writes the modules, the tokens, the name of the template and the instruction.

    Args:
        reranker: Of the merged model.
        folder: With the model's files.
    """
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}.base.modules.transformer.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": _SCORE_FOLDER,
            "type": f"{_MODULES}.cross_encoder.modules.logit_score.LogitScore",
        },
    ]
    logits = {"method": "forward", "method_output_name": "logits"}
    transformer = {
        "transformer_task": "any-to-any",
        "modality_config": {"text": logits, "image": logits, "message": logits | {"format": "structured"}},
        "module_output_name": "causal_logits",
        "processing_kwargs": {"chat_template": {"chat_template": OWN_TEMPLATE, "add_generation_prompt": True}},
    }
    has_instruction = reranker.instruction is not None
    model = {
        "model_type": "CrossEncoder",
        "activation_fn": "torch.nn.modules.activation.Sigmoid",
        "prompts": {"instruction": reranker.instruction} if has_instruction else {},
        "default_prompt_name": "instruction" if has_instruction else None,
    }
    (folder / _SCORE_FOLDER).mkdir()
    yes, no = (*reranker.tokens, None)[:2]
    write_json(folder / _SCORE_FOLDER / "config.json", {"true_token_id": yes, "false_token_id": no})
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", transformer)
    write_json(folder / "config_sentence_transformers.json", model)
