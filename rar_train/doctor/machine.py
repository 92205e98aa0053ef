"""Checks of the machine: packages, devices, DeepSpeed, compiler, disk, and the tracker's API key."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from data_prep.core.paths import PYPROJECT
from data_prep.settings import Recipe, TrackingArgs
from rar_train.doctor.findings import Finding, run_check
from rar_train.engine.wandb_mode import has_key, wandb_mode

_REPORTED = ("torch", "transformers", "peft", "lightning", "deepspeed", "open_clip_torch", "faiss-cpu")
_MIN_GB = {"cache": 1, "out": 1}
_AMPLE_GB = 10


def machine_findings(recipe: Recipe | None) -> list[Finding]:
    """Checks the machine, also against a recipe where one is given."""
    return [
        *run_check("python", check_python),
        *run_check("packages", check_packages, requirements()),
        *run_check("torchvision", check_torchvision),
        *run_check("gpu", check_gpu, recipe),
        *run_check("deepspeed", check_deepspeed, recipe),
        *run_check("compiler", check_compiler),
        *run_check("disk", check_disk, recipe),
        *run_check("wandb", check_wandb, recipe.tracking if recipe else TrackingArgs()),
    ]


def _project() -> dict:
    return tomllib.loads(PYPROJECT.read_text())["project"] if PYPROJECT.is_file() else {}


def requirements() -> list[Requirement]:
    """Lists the project's requirements, without extras: from pyproject.toml in a checkout, else from its metadata.

    Those whose marker excludes this platform are left out.
    """
    lines = _project().get("dependencies") or importlib.metadata.requires("rar-train") or []
    parsed = [Requirement(line) for line in lines]
    return [package for package in parsed if package.marker is None or package.marker.evaluate({"extra": ""})]


def check_python(version: str = platform.python_version()) -> list[Finding]:
    """Checks the interpreter's version."""
    required = _project().get("requires-python") or importlib.metadata.metadata("rar-train")["Requires-Python"]
    if version not in SpecifierSet(required):
        return [Finding("python", "failure", f"{version}, but {required} is needed", "make a venv with a newer Python")]
    return [Finding("python", "ok", f"{version} in {sys.prefix}")]


def check_packages(required: list[Requirement]) -> list[Finding]:
    """Checks the packages' versions against their bounds; one finding for each that is missing or out of bounds."""
    versions, failures = {}, []
    for package in required:
        fix = f"pip install '{package}'"
        try:
            versions[package.name] = importlib.metadata.version(package.name)
        except importlib.metadata.PackageNotFoundError:
            failures.append(Finding(package.name, "failure", f"not installed; {package} is needed", fix))
            continue
        if not package.specifier.contains(versions[package.name], prereleases=True):
            version = versions[package.name]
            failures.append(Finding(package.name, "failure", f"{version}, but {package} is needed", fix))
    if failures:
        return failures
    reported = ", ".join(f"{name} {versions[name]}" for name in _REPORTED if name in versions)
    return [Finding("packages", "ok", f"all {len(versions)} fit their bounds: {reported}")]


def check_torchvision() -> list[Finding]:
    """Checks that torch and torchvision are matching builds; others fail at import."""
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        fix = "install both together: pip install --force-reinstall torch torchvision"
        return [Finding("torchvision", "failure", f"does not import ({str(error).splitlines()[0]})", fix)]
    return [Finding("torchvision", "ok", "imports, so it fits torch")]


def check_gpu(recipe: Recipe | None) -> list[Finding]:
    """Checks the GPUs' memory and bfloat16 support, and that they meet the recipe's settings."""
    trainer = recipe.trainer if recipe else None
    if trainer and trainer.accelerator == "mps" and not torch.backends.mps.is_available():
        text = "trainer.accelerator=mps, but torch sees no Apple GPU here"
        return [Finding("gpu", "failure", text, "use auto or cpu")]
    if trainer and trainer.accelerator == "mps" and (trainer.devices * trainer.num_nodes > 1 or trainer.zero_stage):
        text = "trainer.accelerator=mps, but an Apple GPU is one device and has no DeepSpeed"
        return [Finding("gpu", "failure", text, "set trainer.devices=1 trainer.num_nodes=1 trainer.strategy=auto")]
    if not torch.cuda.is_available():
        reason = _explain_no_gpu()
        if trainer and trainer.accelerator in ("gpu", "cuda"):
            text = f"trainer.accelerator={trainer.accelerator}, but {reason}"
            return [Finding("gpu", "failure", text, "use auto or cpu")]
        if torch.backends.mps.is_available():
            return [Finding("gpu", "ok", "Apple GPU (mps), for one process")]
        advice = "the embedded models run on the CPU; for models of billions, use a GPU"
        return [Finding("gpu", "warning", reason, advice)]
    findings = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
        name = torch.cuda.get_device_name(index)
        text = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {half}, CUDA {torch.version.cuda}"
        busy = free < 0.8 * total
        findings.append(
            Finding(f"gpu {index}", "warning" if busy else "ok", text, "another process uses it: nvidia-smi" * busy)
        )
    if trainer and trainer.accelerator != "cpu" and trainer.devices > len(findings):
        text = f"trainer.devices={trainer.devices}, but there are {len(findings)}"
        findings.append(Finding("gpu", "failure", text, f"set trainer.devices={len(findings)}"))
    wants_half = trainer and ("bf16" in trainer.precision or recipe.ranker.dtype == "bfloat16")
    if wants_half and trainer.accelerator != "cpu" and not torch.cuda.is_bf16_supported(including_emulation=False):
        advice = "set ranker.dtype=float16 and trainer.precision=16-mixed, or float32 and 32-true"
        text = "the recipe computes in bfloat16, which this GPU does not support"
        findings.append(Finding("gpu", "failure", text, advice))
    return findings


def _explain_no_gpu() -> str:
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if shutil.which("nvidia-smi"):
        gpus = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout.strip()
        if gpus:
            return f"torch (CUDA {torch.version.cuda}) can't use {gpus.splitlines()[0]}: the driver may be too old"
    return "torch sees no GPU here"


def check_deepspeed(recipe: Recipe | None) -> list[Finding]:
    """Checks that DeepSpeed imports, and lists which of its compiled operations can be built."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before deepspeed is imported
    severity = "failure" if recipe and recipe.trainer.zero_stage else "warning"
    if importlib.util.find_spec("deepspeed") is None:
        text = "not installed; it needs Linux, and only trainer.strategy=deepspeed_stage_N uses it"
        return [Finding("deepspeed", severity, text, "on Linux: pip install deepspeed ninja")]
    try:
        import deepspeed
        from deepspeed.ops.op_builder.all_ops import ALL_OPS
    except Exception as error:
        text = f"does not import ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        return [Finding("deepspeed", severity, text, "pip install --force-reinstall deepspeed")]
    builders = {name: builder for name, builder in ALL_OPS.items() if name != "deepspeed_not_implemented"}
    compatible = [name for name, builder in builders.items() if builder.is_compatible(verbose=False)]
    text = f"{deepspeed.__version__}; can be built here: {', '.join(compatible) or 'nothing'}"
    return [Finding("deepspeed", "ok", text)]


def check_compiler() -> list[Finding]:
    """Checks for the compiler and ninja, with which DeepSpeed and torch.compile build on first use."""
    compiler = os.environ.get("CXX", "g++")
    missing = [name for name in (compiler, "ninja") if shutil.which(name) is None]
    if "ninja" in missing and (Path(sys.executable).parent / "ninja").exists():
        advice = f"put {Path(sys.executable).parent} on PATH: activate the venv"
        return [Finding("compiler", "warning", "ninja is installed, but not on PATH", advice)]
    if missing:
        advice = "apt install g++; pip install ninja. DeepSpeed and trainer.compile need them"
        return [Finding("compiler", "warning", f"not found: {', '.join(missing)}", advice)]
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, timeout=30).stdout.strip()
    return [Finding("compiler", "ok", f"{compiler} {version}, {shutil.which('ninja')}")]


def check_disk(recipe: Recipe | None) -> list[Finding]:
    """Checks free space and write permission of the cache and run folders."""
    folders = {"cache": recipe.cache, "out": recipe.out} if recipe else {"cache": "cache"}
    return [_check_folder(key, Path(folder).absolute()) for key, folder in folders.items()]


def _check_folder(key: str, folder: Path) -> Finding:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return Finding(f"disk: {key}", "failure", f"{existing}: can't be written to", f"set {key}=FOLDER")
    free = shutil.disk_usage(existing).free / 1e9
    status = "failure" if free < _MIN_GB[key] else "warning" if free < _AMPLE_GB else "ok"
    advice = f"make room, or set {key}=FOLDER on another disk" if status != "ok" else ""
    return Finding(f"disk: {key}", status, f"{free:.1f} GB free at {folder}", advice)


def check_wandb(args: TrackingArgs) -> list[Finding]:
    """Checks that the tracker has the API key that its mode needs."""
    mode = wandb_mode(args)
    text = mode if mode == args.wandb else f"{mode}, by WANDB_MODE or WANDB_DISABLED"
    if mode != "online":
        return [Finding("wandb", "ok", f"{text}: no account is needed")]
    if has_key():
        return [Finding("wandb", "ok", "online: there is a key; its validity was not checked")]
    advice = "run wandb login, or set tracking.wandb=offline"
    return [Finding("wandb", "failure", "online, but there is no key (WANDB_API_KEY or ~/.netrc)", advice)]
