"""Start-up time of every command's ``--help``, and import times of the libraries.

``python benchmarks/startup.py`` times ``python -m COMMAND --help`` of every command, and in separate processes the
imports of the libraries and of the modules that do the commands' work: the median of three each, files cached. The
baselines in the same run are an interpreter that does nothing, and ``import torch``. The last line is
one JSON object: ``help_s`` by command, ``import_s`` by module, ``slowest_help_s``, and ``ratio_to_torch``, the
slowest help divided by the import of torch. Libraries that are not installed (DeepSpeed needs Linux) are left out.

2026-11-25, two CPU cores: the slowest help 0.31 s, 0.14 of the import of torch; imports: torch 2.2 s, lightning 10.1,
open_clip 8.9, peft 7.8, deepspeed 3.5; the commands' modules: ``data_prep.mining.pipeline`` 8.3,
``rar_train.ranker.train`` 12.2, ``eval.ranking.ranker`` 9.5.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

LIBRARIES = tuple(
    name
    for name in ("torch", "transformers", "peft", "lightning", "open_clip", "faiss", "wandb", "deepspeed")
    if importlib.util.find_spec(name)
)
WORK = ("data_prep.mining.pipeline", "rar_train.ranker.train", "eval.ranking.ranker")
REPETITIONS = 3


def commands() -> list[str]:
    """Lists the modules of the packages that are run by ``python -m``."""
    root = Path(__file__).parents[1]
    modules = []
    for package in ("data_prep", "rar_train", "eval"):
        files = [*(root / package).glob("*.py"), *(root / package).glob("*/__main__.py")]
        runnable = [file for file in files if "sys.exit(run_command(" in file.read_text(encoding="utf-8")]
        modules += [f"{package}.{file.parent.name if file.stem == '__main__' else file.stem}" for file in runnable]
    return sorted(modules)


def seconds(*arguments: str) -> float:
    """Measures the median time of a Python process."""
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    # Warms the disk cache; not measured.
    subprocess.run([sys.executable, "-c", f"import {', '.join((*LIBRARIES, *WORK))}"], check=True, capture_output=True)
    bare = seconds("-c", "")
    print(f"{'nothing':28} {bare:6.2f} s")
    help_s = {}
    for command in commands():
        help_s[command] = seconds("-m", command, "--help")
        print(f"{command + ' --help':28} {help_s[command]:6.2f} s")
    import_s = {}
    for module in (*LIBRARIES, *WORK):
        import_s[module] = seconds("-c", f"import {module}") - bare
        print(f"{'import ' + module:28} {import_s[module]:6.2f} s")
    slowest = max(help_s.values())
    metrics = {
        "help_s": help_s,
        "import_s": import_s,
        "nothing_s": bare,
        "slowest_help_s": slowest,
        "ratio_to_torch": slowest / import_s["torch"],
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(json.dumps(metrics))


if __name__ == "__main__":
    main()
