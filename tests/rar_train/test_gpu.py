"""Training on a CUDA GPU (four bits, bfloat16, compiled layers), and agreement with the CPU.

``pip install bitsandbytes`` for four bits, which are tested on the CPU too. On a machine with a GPU: ``pytest -m gpu``.
"""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.core.files import read_json
from data_prep.prompting.prompts import NAMING, letters_prompt
from data_prep.settings import RankerArgs
from data_prep.settings.loading import load_saved_recipe
from rar_train.export.merging import log_probabilities, write_merged
from rar_train.models import loading
from rar_train.models.loading import load_mllm
from rar_train.models.lora import load_adapter
from rar_train.models.scoring import takes_trees
from rar_train.ranker.monitor import peak_flops
from rar_train.ranker.train import train_ranker
from tests.rar_train.conftest import write_llava

GPU = "trainer.accelerator=gpu"
ONE_PASS = "one pass for all conversations about an image\n"
H100_DENSE_BF16 = 989.4e12


def losses(run: Path) -> list[float]:
    with open(next((run / "log").rglob("metrics.csv")), newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("name", ["NVIDIA H200", "NVIDIA H100 80GB HBM3"])
def test_mfu_is_measured_against_the_rate_of_dense_matrices(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
    assert peak_flops(torch.device("cuda"), "bf16-mixed") == H100_DENSE_BF16


def test_a_cpu_has_no_mfu():
    assert peak_flops(torch.device("cpu"), "bf16-mixed") is None


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        ("trainer.precision=bf16-mixed", "trainer.gradient_checkpointing=true"),
        ("trainer.precision=bf16-mixed", "ranker.dtype=bfloat16"),
        ("trainer.precision=bf16-mixed", "trainer.compile=true"),
        ("trainer.precision=bf16-mixed", "trainer.num_workers=2"),
    ],
    ids=["checkpointing", "bfloat16", "compiled", "workers"],
)
def test_half_precision_has_the_losses_of_single_precision_and_logs_mfu(settings, tiny, finished, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = train_ranker(tiny(tmp_path / "run", GPU, *settings, "trainer.log_every=1"))
    assert losses(run) == pytest.approx(losses(finished), abs=0.05)
    assert ONE_PASS in caplog.text
    with open(next((run / "log").rglob("metrics.csv")), newline="") as file:
        assert any(0 < float(row.get("perf/mfu") or 0) < 1 for row in csv.DictReader(file))


@pytest.mark.gpu
def test_a_gpu_trains_and_ranks_like_a_cpu(tiny, finished, pictures, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run = train_ranker(tiny(tmp_path / "run", GPU))
    assert ONE_PASS in caplog.text
    assert losses(run) == pytest.approx(losses(finished), rel=1e-3)
    mllm = load_adapter(load_mllm(RankerArgs()), run / "adapter")
    inputs = mllm.inputs(pictures[:2], [NAMING, letters_prompt(["one", "another"])])
    with torch.no_grad():
        expected = mllm.model(**inputs).logits
        on_gpu = mllm.model.to("cuda")(**inputs.to("cuda")).logits.cpu()
    torch.testing.assert_close(on_gpu, expected, rtol=1e-3, atol=2e-2)  # cuDNN may convolve in TF32


@pytest.mark.parametrize(
    ("accelerator", "precision", "dtype"),
    [
        ("cpu", "32-true", "float32"),
        pytest.param("gpu", "bf16-mixed", "bfloat16", marks=pytest.mark.gpu),
    ],
)
def test_a_four_bit_model_is_tuned_reloaded_and_merged_into_unquantised_weights(
    accelerator, precision, dtype, tiny, tmp_path, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    from bitsandbytes.nn import Linear4bit

    if accelerator == "cpu":  # it works there too, but slowly, so users are advised against it
        monkeypatch.setattr(loading, "check_four_bits", lambda: None)
    base = write_llava(tmp_path / "base", width=128)
    steps = ("optim.max_steps=12", "optim.lr=3e-3", "trainer.checkpoint_every=12", f"trainer.accelerator={accelerator}")
    settings = ("ranker.quantize=4bit", f"ranker.dtype={dtype}", f"trainer.precision={precision}")
    more = (f"ranker.model={base}", "trainer.gradient_checkpointing=true", "ranker.lora.scope=language")
    run = train_ranker(tiny(tmp_path / "run", *steps, *settings, *more))
    logged = losses(run)
    assert ONE_PASS in caplog.text
    assert sum(logged[-4:]) < sum(logged[:4])
    recipe = load_saved_recipe(run / "recipe.yaml", [])
    reloaded = load_adapter(load_mllm(recipe.ranker), run / "adapter")
    layers = [module for name, module in reloaded.model.named_modules() if name.endswith("q_proj.base_layer")]
    assert layers and all(isinstance(layer, Linear4bit) for layer in layers)
    assert takes_trees(reloaded)
    assert all(value.isfinite().all() for value in load_file(run / "adapter" / "adapter_model.safetensors").values())
    assert read_json(run / "adapter" / "manifest.json")["step"] == 12

    write_merged(recipe, run / "adapter", run, tmp_path / "merged", "float32")
    merged = load_mllm(RankerArgs(model=str(tmp_path / "merged")))
    tuned = load_adapter(load_mllm(RankerArgs(model=str(base))), run / "adapter")
    torch.testing.assert_close(log_probabilities(merged), log_probabilities(tuned), rtol=1e-3, atol=1e-3)
