"""How long a command takes to say how it is called, and what the libraries take to import.

``python benchmarks/startup.py`` times ``python -m COMMAND --help`` of every command, and in processes of their own the
imports of the libraries and of the modules that do the commands' work: the median of three each, files cached. What
they are measured against in the same run: an interpreter that does nothing, and ``import torch``. The last line is
one JSON object: ``help_s`` by command, ``import_s`` by module, ``slowest_help_s``, and ``ratio_to_torch``, the
slowest help against the import of torch.

2026-11-25, two CPU cores: the slowest help 0.31 s, 0.14 of the import of torch; imports: torch 2.2 s, lightning 10.1,
open_clip 8.9, peft 7.8, deepspeed 3.5; what commands do: ``data_prep.mining.pipeline`` 8.3,
``rar_train.ranker.train`` 12.2, ``eval.ranking.ranker`` 9.5.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

LIBRARIES = ("torch", "transformers", "peft", "lightning", "open_clip", "faiss", "wandb", "deepspeed")
WORK = ("data_prep.mining.pipeline", "rar_train.ranker.train", "eval.ranking.ranker")
TIMES = 3


def commands() -> list[str]:
    """Every module of the packages that is run by ``python -m``."""
    root = Path(__file__).parents[1]
    found = []
    for package in ("data_prep", "rar_train", "eval"):
        files = [*(root / package).glob("*.py"), *(root / package).glob("*/__main__.py")]
        runnable = [file for file in files if "sys.exit(run_command(" in file.read_text(encoding="utf-8")]
        found += [f"{package}.{file.parent.name if file.stem == '__main__' else file.stem}" for file in runnable]
    return sorted(found)


def seconds(*arguments: str) -> float:
    """The median time of a Python process."""
    taken = []
    for _ in range(TIMES):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    # Fills the disk's cache, and does not count.
    subprocess.run([sys.executable, "-c", f"import {', '.join((*LIBRARIES, *WORK))}"], check=True, capture_output=True)
    nothing = seconds("-c", "")
    print(f"{'nothing':28} {nothing:6.2f} s")
    help_s = {}
    for command in commands():
        help_s[command] = seconds("-m", command, "--help")
        print(f"{command + ' --help':28} {help_s[command]:6.2f} s")
    import_s = {}
    for module in (*LIBRARIES, *WORK):
        import_s[module] = seconds("-c", f"import {module}") - nothing
        print(f"{'import ' + module:28} {import_s[module]:6.2f} s")
    slowest = max(help_s.values())
    metrics = {
        "help_s": help_s,
        "import_s": import_s,
        "nothing_s": nothing,
        "slowest_help_s": slowest,
        "ratio_to_torch": slowest / import_s["torch"],
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
