"""Export formats by name: each is a module or object that writes conversations and reads them back for the check.

A format has ``FILE``, the name of its list; ``write(folder, name, conversations)``; and ``read(folder)``, which
yields every record as a ``Turn``, or as what ``data_prep.export.judged`` has. ``HINT`` tells the user how to point the
trainer to the folder.
"""

from __future__ import annotations

from data_prep.export import cross_encoder, grpo, llama_factory, llava, rar, swift, swift_reranker, trl, trl_dpo

FORMATS = {
    "rar": rar,
    "llava": llava,
    "sharegpt": llama_factory.SHAREGPT,
    "openai": llama_factory.OPENAI,
    "swift": swift,
    "trl": trl,
}
JUDGED = {
    "swift_reranker": swift_reranker,
    "swift_grpo": grpo.SWIFT,
    "trl_grpo": grpo.TRL,
    "trl_dpo": trl_dpo,
    "sentence_transformers": cross_encoder.LISTS,
    "sentence_transformers_pairs": cross_encoder.PAIRS,
}
"""Formats whose records need a right candidate and a wrong one."""
FORMATS |= JUDGED
