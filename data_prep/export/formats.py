"""Export formats by name: each is a module or object that writes conversations and reads them back for the check.

A format has ``FILE``, the name of its list; ``write(folder, name, conversations)``; and ``read(folder)``, which
yields every record as a ``Turn``. ``HINT`` tells the user how to point the trainer to the folder.
"""

from __future__ import annotations

from data_prep.export import llama_factory, llava, rar, swift, trl

FORMATS = {
    "rar": rar,
    "llava": llava,
    "sharegpt": llama_factory.SHAREGPT,
    "openai": llama_factory.OPENAI,
    "swift": swift,
    "trl": trl,
}
