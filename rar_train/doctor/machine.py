"""Checks of the machine: packages, devices, DeepSpeed, compiler, disk, and the tracker's key."""

from __future__ import annotations

import importlib
import importlib.metadata
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
from rar_train.doctor.findings import Finding, made
from rar_train.engine.wandb_mode import has_key, wandb_mode

_NAMED = ("torch", "transformers", "peft", "lightning", "deepspeed", "open_clip_torch", "faiss-cpu")
_LEAST_GB = {"cache": 1, "out": 1}
_AMPLE_GB = 10


def machine_findings(recipe: Recipe | None) -> list[Finding]:
    """Checks the machine, for a recipe where one is given."""
    return [
        *made("python", check_python),
        *made("packages", check_packages, requirements()),
        *made("torchvision", check_torchvision),
        *made("gpu", check_gpu, recipe),
        *made("deepspeed", check_deepspeed, recipe),
        *made("compiler", check_compiler),
        *made("disk", check_disk, recipe),
        *made("wandb", check_wandb, recipe.tracking if recipe else TrackingArgs()),
    ]


def _project() -> dict:
    return tomllib.loads(PYPROJECT.read_text())["project"] if PYPROJECT.is_file() else {}


def requirements() -> list[Requirement]:
    """What the project asks for, without extras: from pyproject.toml in a checkout, else from the installed package."""
    listed = _project().get("dependencies") or importlib.metadata.requires("rar-train") or []
    found = [Requirement(line) for line in listed]
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def check_python(version: str = platform.python_version()) -> list[Finding]:
    """The interpreter's version."""
    wanted = _project().get("requires-python") or importlib.metadata.metadata("rar-train")["Requires-Python"]
    if version not in SpecifierSet(wanted):
        return [Finding("python", "failure", f"{version}, but {wanted} is needed", "make a venv with a newer Python")]
    return [Finding("python", "ok", f"{version} in {sys.prefix}")]


def check_packages(wanted: list[Requirement]) -> list[Finding]:
    """The packages' versions against the bounds; a finding for each that is missing or too old."""
    found, wrong = {}, []
    for one in wanted:
        mend = f"pip install '{one}'"
        try:
            found[one.name] = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(Finding(one.name, "failure", f"not installed; {one} is needed", mend))
            continue
        if not one.specifier.contains(found[one.name], prereleases=True):
            wrong.append(Finding(one.name, "failure", f"{found[one.name]}, but {one} is needed", mend))
    if wrong:
        return wrong
    named = ", ".join(f"{name} {found[name]}" for name in _NAMED if name in found)
    return [Finding("packages", "ok", f"all {len(found)} fit their bounds: {named}")]


def check_torchvision() -> list[Finding]:
    """Whether torch and torchvision are builds that belong together: others fail when they are imported."""
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        mend = "install both together: pip install --force-reinstall torch torchvision"
        return [Finding("torchvision", "failure", f"does not import ({str(error).splitlines()[0]})", mend)]
    return [Finding("torchvision", "ok", "imports, so it fits torch")]


def check_gpu(recipe: Recipe | None) -> list[Finding]:
    """The GPUs, their memory and bfloat16, and whether they are what the recipe asks for."""
    trainer = recipe.trainer if recipe else None
    if not torch.cuda.is_available():
        why = _no_gpu()
        if trainer and trainer.accelerator in ("gpu", "cuda"):
            return [
                Finding("gpu", "failure", f"trainer.accelerator={trainer.accelerator}, but {why}", "use auto or cpu")
            ]
        return [Finding("gpu", "warning", why, "the embedded models run on the CPU; for models of billions, use a GPU")]
    findings = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        half = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
        name = torch.cuda.get_device_name(number)
        said = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {half}, CUDA {torch.version.cuda}"
        busy = free < 0.8 * total
        findings.append(
            Finding(f"gpu {number}", "warning" if busy else "ok", said, "another process uses it: nvidia-smi" * busy)
        )
    if trainer and trainer.accelerator != "cpu" and trainer.devices > len(findings):
        said = f"trainer.devices={trainer.devices}, but there are {len(findings)}"
        findings.append(Finding("gpu", "failure", said, f"set trainer.devices={len(findings)}"))
    wants_half = trainer and ("bf16" in trainer.precision or recipe.ranker.dtype == "bfloat16")
    if wants_half and trainer.accelerator != "cpu" and not torch.cuda.is_bf16_supported(including_emulation=False):
        advice = "set ranker.dtype=float16 and trainer.precision=16-mixed, or float32 and 32-true"
        findings.append(Finding("gpu", "failure", "the recipe computes in bfloat16, which this GPU does not", advice))
    return findings


def _no_gpu() -> str:
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    if shutil.which("nvidia-smi"):
        seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30).stdout.strip()
        if seen:
            return f"torch (CUDA {torch.version.cuda}) can't use {seen.splitlines()[0]}: the driver may be too old"
    return "torch sees no GPU here"


def check_deepspeed(recipe: Recipe | None) -> list[Finding]:
    """Whether DeepSpeed imports, and which of its compiled operations can be built."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before deepspeed is imported
    wanted = bool(recipe and recipe.trainer.strategy.startswith("deepspeed"))
    try:
        import deepspeed
        from deepspeed.ops.op_builder.all_ops import ALL_OPS
    except Exception as error:
        said = f"does not import ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        return [
            Finding("deepspeed", "failure" if wanted else "warning", said, "pip install --force-reinstall deepspeed")
        ]
    real = {name: builder for name, builder in ALL_OPS.items() if name != "deepspeed_not_implemented"}
    fit = [name for name, builder in real.items() if builder.is_compatible(verbose=False)]
    said = f"{deepspeed.__version__}; can be built here: {', '.join(fit) or 'nothing'}"
    return [Finding("deepspeed", "ok", said)]


def check_compiler() -> list[Finding]:
    """The compiler and ninja, with which DeepSpeed and torch.compile build on first use."""
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
    """Free space, and the right to write, where cache and run go."""
    places = {"cache": recipe.cache, "out": recipe.out} if recipe else {"cache": "cache"}
    return [_place(key, Path(place).absolute()) for key, place in places.items()]


def _place(key: str, place: Path) -> Finding:
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(f"disk: {key}", "failure", f"{there}: can't be written to", f"set {key}=FOLDER")
    free = shutil.disk_usage(there).free / 1e9
    status = "failure" if free < _LEAST_GB[key] else "warning" if free < _AMPLE_GB else "ok"
    advice = f"make room, or set {key}=FOLDER on another disk" if status != "ok" else ""
    return Finding(f"disk: {key}", status, f"{free:.1f} GB free at {place}", advice)


def check_wandb(args: TrackingArgs) -> list[Finding]:
    """Whether the tracker has what its mode needs."""
    mode = wandb_mode(args)
    said = mode if mode == args.wandb else f"{mode}, by WANDB_MODE or WANDB_DISABLED"
    if mode != "online":
        return [Finding("wandb", "ok", f"{said}: no account is needed")]
    if has_key():
        return [Finding("wandb", "ok", "online: a key is there; whether it is valid was not asked")]
    advice = "run wandb login, or set tracking.wandb=offline"
    return [Finding("wandb", "failure", "online, but there is no key (WANDB_API_KEY or ~/.netrc)", advice)]
