"""An exported model is plain, agrees with base and adapter, and has a card with the measured metrics."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.results_file import write_results
from data_prep.settings import LoraArgs, RankerArgs
from data_prep.settings.loading import load_saved_recipe, save_recipe
from rar_train.export.__main__ import main
from rar_train.export.merging import check_same, log_probabilities
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora, load_adapter, save_adapter
from tests.commands import environment
from tests.damage import KINDS, damage
from tests.rar_train.tiny_rerankers import save_reranker, score_all


@pytest.fixture
def run(llava_folder, tiny, tmp_path) -> Path:
    """A run's folder of a LLaVA in the hub's layout."""
    recipe = tiny(tmp_path / "run", f"ranker.model={llava_folder}")
    mllm = add_lora(load_mllm(recipe.ranker), LoraArgs(rank=2, scope="language+projector"))
    for name, parameter in mllm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(mllm, tmp_path / "run" / "adapter", recipe, {"step": 7, "validation": {"letters": 0.625}})
    save_recipe(tmp_path / "run" / "recipe.yaml", recipe)
    return tmp_path / "run"


def test_a_merged_model_loads_without_this_project_and_gives_the_same_log_probabilities(run, llava_folder, tmp_path):
    main(["--ckpt", str(run), "--merge"])
    expected = log_probabilities(load_adapter(load_mllm(RankerArgs(model=str(llava_folder))), run / "adapter"))
    code = (
        "import sys\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"model = AutoModelForImageTextToText.from_pretrained({str(run / 'merged')!r})\n"
        f"AutoProcessor.from_pretrained({str(run / 'merged')!r})\n"
        "assert not any(name.startswith(('rar_train', 'data_prep', 'peft')) for name in sys.modules)\n"
    )
    env = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env, capture_output=True)
    plain = load_mllm(RankerArgs(model=str(run / "merged")))
    torch.testing.assert_close(log_probabilities(plain), expected, rtol=1e-3, atol=1e-3)


def test_a_merged_reranker_is_a_cross_encoder_with_the_same_scores(tiny, tmp_path):
    """With the extra ``sentences``, or ``pip install --no-deps --target FOLDER sentence-transformers``."""
    folder, pixels = save_reranker(tmp_path / "base"), np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    recipe = tiny(tmp_path / "run", f"ranker.model={folder}", "ranker.instruction=Find the shield.")
    mllm = add_lora(load_mllm(recipe.ranker), LoraArgs(rank=2))
    for name, parameter in mllm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(mllm, tmp_path / "run" / "adapter", recipe, {"step": 7, "validation": {}})
    save_recipe(tmp_path / "run" / "recipe.yaml", recipe)
    main(["--ckpt", str(tmp_path / "run"), "--merge"])
    image, names = Image.fromarray(pixels), ("a bend", "a cross")
    tuned = score_all(mllm, [image], names)[0].tolist()
    args = RankerArgs(model=str(tmp_path / "run" / "merged"), instruction="Find the shield.")
    assert score_all(load_mllm(args), [image], names)[0].tolist() == pytest.approx(tuned, abs=1e-4)
    cross_encoder = pytest.importorskip("sentence_transformers").CrossEncoder
    model = cross_encoder(str(tmp_path / "run" / "merged"), device="cpu")
    theirs = model.predict([(image, name) for name in names], activation_fn=torch.nn.Identity())
    assert theirs.tolist() == pytest.approx(tuned, abs=1e-4) and abs(tuned[0] - tuned[1]) > 0.01


def test_the_card_contains_the_metrics_of_the_runs_files(run):
    manifest = json.loads((run / "adapter" / "manifest.json").read_text())
    evaluated = run / "eval" / "test-letters"
    evaluated.mkdir(parents=True)
    row = {"task": "few_shot", "shots": 4, "seed": 1, "method": "rar", "top1": 0.8125}
    about = {"evaluation": {"changes": {"eval.k": 10}}, "notes": ["figures mean nothing"]}
    write_results(evaluated, {"rows": [row], "adapter": manifest["adapter"]} | about)
    other = run / "eval" / "test-generate"
    other.mkdir()
    write_results(other, {"rows": [row | {"top1": 0.4321}], "adapter": "another"})
    main(["--ckpt", str(run)])
    card = (run / "exported" / "README.md").read_text()
    for text in (
        manifest["base_model"],
        manifest["adapter"],
        "0.625",
        "0.8125",
        "step 7",
        "NAME",
        "`k=10`",
        "figures mean nothing",
    ):
        assert text in card
    assert "0.4321" not in card  # measured on another adapter
    assert (run / "exported" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("args", "limits"),
    [
        (LoraArgs(), []),
        (
            LoraArgs(scope="language+projector+vision"),
            ["It adapts the projector and the vision tower, which vLLM silently"],
        ),
        (LoraArgs(scope="language+projector", projector="full"), ["It holds the whole projector"]),
        (LoraArgs(dora=True, rank=32), ["It is a DoRA adapter, which vLLM refuses", "give vLLM --max-lora-rank 32"]),
    ],
)
def test_an_exported_adapter_warns_of_what_a_server_does_not_take(run, caplog, args, limits):
    recipe = load_saved_recipe(run / "recipe.yaml", [])
    save_adapter(add_lora(load_mllm(recipe.ranker), args), run / "adapter", recipe, {"step": 1})
    with caplog.at_level("WARNING"):
        main(["--ckpt", str(run)])
    card = (run / "exported" / "README.md").read_text()
    warnings = [record.getMessage() for record in caplog.records if "export:" in record.getMessage()]
    assert len(warnings) == len(limits) and ("## Serving it" in card) == bool(limits)
    for warning, limit in zip(warnings, limits, strict=True):
        assert limit in warning and limit in card and "--merge" in warning


def test_the_requested_dtype_is_written(run, tmp_path):
    main(["--ckpt", str(run), "--merge", "--dtype", "bfloat16", "--to", str(tmp_path / "half")])
    model = load_mllm(RankerArgs(model=str(tmp_path / "half"), dtype="bfloat16")).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_merge_with_other_log_probabilities_is_refused(run, monkeypatch):
    merge = "peft.tuners.lora.layer.Linear.get_delta_weight"
    monkeypatch.setattr(merge, lambda self, name: torch.zeros_like(self.get_base_layer().weight))
    with pytest.raises(UserError, match=r"differ by .* nothing was written"):
        main(["--ckpt", str(run), "--merge"])
    assert not (run / "merged").exists()


def test_a_full_disk_at_a_merge_is_an_error_that_names_the_folder(run):
    sizes = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, sizes[1]))  # the error is like that of a full disk
    try:
        with pytest.raises(UserError, match=r"merged: could not be written .*; the run is as it was. Make room"):
            main(["--ckpt", str(run), "--merge"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, sizes)
    assert {path.name for path in run.iterdir()} == {"adapter", "recipe.yaml"}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_to_a_merged_model_is_an_error_when_it_is_loaded(run, kind):
    main(["--ckpt", str(run), "--merge"])
    (run / "merged" / "README.md").write_text("edited by its publisher")
    assert load_mllm(RankerArgs(model=str(run / "merged"))).id
    damage(run / "merged" / "tokenizer.json", kind)
    with pytest.raises(UserError, match=r"tokenizer\.json: (missing|damaged)"):
        load_mllm(RankerArgs(model=str(run / "merged")))


def test_nan_is_not_within_the_tolerance():
    with pytest.raises(UserError, match="differ by nan"):
        check_same(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, float("nan")]]), 1e-3, "it")


def test_a_folder_of_other_files_is_left_alone(run, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds files that no export wrote"):
        main(["--ckpt", str(run), "--merge", "--to", str(tmp_path / "thesis")])
    shutil.rmtree(run / "adapter")
    with pytest.raises(UserError, match="no adapter at"):
        main(["--ckpt", str(run), "--merge"])
