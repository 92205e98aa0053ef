"""An adapter changes the layers of its scope, and is loaded completely or not at all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_prep.core.errors import UserError
from data_prep.core.files import file_hash
from data_prep.prompting.prompts import NAMING
from data_prep.settings import LoraArgs, RankerArgs
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora, load_adapter, save_adapter
from rar_train.models.mllm import Mllm
from tests.damage import KINDS, damage
from tests.manifests import rewrite_manifest
from tests.rar_train.tiny_families import save_tiny


def compute_logits(mllm: Mllm, image) -> torch.Tensor:
    with torch.no_grad():
        return mllm.model.eval()(**mllm.inputs([image], [NAMING])).logits


def perturb(mllm: Mllm) -> Mllm:
    """Gives a fresh adapter, which has no effect, random weights."""
    torch.manual_seed(1)
    for name, parameter in mllm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return mllm


@pytest.fixture
def saved(tiny, tmp_path) -> Path:
    """An adapter of nano-mllm on disk."""
    save_adapter(
        perturb(add_lora(load_mllm(RankerArgs()), LoraArgs(rank=2))), tmp_path / "adapter", tiny(tmp_path), {"step": 7}
    )
    return tmp_path / "adapter"


def rewrite(folder: Path, weights: dict) -> None:
    """Puts other weights into an adapter's folder and updates its manifest to match."""
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    rewrite_manifest(folder, adapter=file_hash(folder / "adapter_model.safetensors"))


@pytest.mark.parametrize("scope", ["language", "language+projector"])
def test_a_saved_adapter_gives_the_same_logits_when_loaded(fresh, scope, pictures, tiny, tmp_path):
    before = compute_logits(fresh(), pictures[0])
    tuned = perturb(add_lora(fresh(), LoraArgs(rank=4, scope=scope)))
    expected = compute_logits(tuned, pictures[0])
    save_adapter(tuned, tmp_path / "adapter", tiny(tmp_path), {})
    loaded = load_adapter(fresh(), tmp_path / "adapter")
    assert torch.equal(compute_logits(loaded, pictures[0]), expected)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert not any(module.training for module in loaded.model.modules())


def test_a_fresh_adapter_leaves_the_model_as_it_was(fresh, pictures):
    before = compute_logits(fresh(), pictures[0])
    assert torch.equal(compute_logits(add_lora(fresh(), LoraArgs()), pictures[0]), before)


def test_language_scope_trains_lora_on_every_projection_of_the_language_model_alone(fresh):
    mllm = add_lora(fresh(), LoraArgs(rank=2))
    trained = [name for name, parameter in mllm.model.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name and ".language_model." in name for name in trained)
    layers = mllm.model.config.text_config.num_hidden_layers
    assert len(trained) == layers * 7 * 2  # q, k, v, o, gate, up, down; A and B


def test_projector_scope_adds_the_two_projector_layers_and_never_the_vision_tower(fresh):
    def trained(scope: str) -> set[str]:
        mllm = add_lora(fresh(), LoraArgs(rank=2, scope=scope))
        return {name for name, parameter in mllm.model.named_parameters() if parameter.requires_grad}

    added = trained("language+projector") - trained("language")
    assert {name.split(".lora_")[0].split("model.")[-1] for name in added} == {
        "multi_modal_projector.linear_1",
        "multi_modal_projector.linear_2",
    }
    assert not any("vision_tower" in name for name in trained("language+projector"))


@pytest.mark.parametrize("kind", ["qwen3_vl_moe", "glm4v_moe"])
def test_routed_experts_are_adapted_where_the_layers_name_them(kind, pictures, tiny, tmp_path):
    folder = save_tiny(kind, tmp_path / "model")
    pattern = r".*language_model.*\.(q_proj|experts\.(gate_up_proj|down_proj))"
    plain = load_mllm(RankerArgs(model=str(folder)))
    assert not any(".experts." in name for name in trained(add_lora(plain, LoraArgs(rank=2))))
    tuned = perturb(add_lora(load_mllm(RankerArgs(model=str(folder))), LoraArgs(rank=2, target_modules=pattern)))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained(tuned)} == {
        "q_proj",
        "experts",
        "base_layer",
    }
    expected = compute_logits(tuned, pictures[0])
    save_adapter(tuned, tmp_path / "adapter", tiny(tmp_path), {})
    loaded = load_adapter(load_mllm(RankerArgs(model=str(folder))), tmp_path / "adapter")
    torch.testing.assert_close(compute_logits(loaded, pictures[0]), expected, rtol=1e-5, atol=1e-5)
    merged = loaded.wrap(loaded.model.merge_and_unload())
    torch.testing.assert_close(compute_logits(merged, pictures[0]), expected, rtol=1e-4, atol=1e-4)


def test_layers_that_peft_replaces_by_experts_are_refused(tmp_path):
    mllm = load_mllm(RankerArgs(model=str(save_tiny("glm4v_moe", tmp_path / "model"))))
    with pytest.raises(UserError, match=r"shared_experts\.gate_proj of glm4v_moe-\w+ alone, but replaces it"):
        add_lora(mllm, LoraArgs(rank=2, target_modules=r".*shared_experts\.(gate|up)_proj"))


def trained(mllm: Mllm) -> set[str]:
    return {name for name, parameter in mllm.model.named_parameters() if parameter.requires_grad}


def test_an_adapter_folder_is_in_pefts_format_and_contains_no_local_path(llava_folder, tiny, tmp_path):
    mllm = load_mllm(RankerArgs(model=str(llava_folder)))
    save_adapter(add_lora(mllm, LoraArgs(rank=2)), tmp_path / "adapter", tiny(tmp_path), {"step": 7})
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    for name in ("adapter_config.json", "manifest.json"):
        assert str(llava_folder) not in (tmp_path / "adapter" / name).read_text()
    manifest = json.loads((tmp_path / "adapter" / "manifest.json").read_text())
    assert manifest["base_model"] == mllm.id and manifest["step"] == 7
    assert manifest["adapter"] == file_hash(tmp_path / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ("drop", "1 weights missing, 0 unexpected, 0 of another shape"),
        ("rename", "1 weights missing, 1 unexpected, 0 of another shape"),
        ("reshape", "0 weights missing, 0 unexpected, 1 of another shape"),
    ],
)
def test_an_adapter_that_fits_only_in_part_is_refused_with_counts(saved, change, counts):
    weights = load_file(saved / "adapter_model.safetensors")
    name = sorted(weights)[3]
    value = weights.pop(name)
    if change == "rename":
        weights[name.replace("lora_", "loro_")] = value
    if change == "reshape":
        weights[name] = value[:, :-1].contiguous()
    rewrite(saved, weights)
    with pytest.raises(UserError, match=rf"{counts}, such as .*lor[ao]_.*; nothing was loaded"):
        load_adapter(load_mllm(RankerArgs()), saved)


def test_an_adapter_of_another_base_is_refused_and_both_are_named(saved, llava, nano):
    with pytest.raises(UserError) as caught:
        load_adapter(llava, saved)
    assert nano.id in str(caught.value) and llava.id in str(caught.value) and "ranker.model" in str(caught.value)


def test_an_adapter_of_another_trainer_is_refused_with_advice(saved, nano):
    (saved / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"another program trained this adapter .* merge it into its base"):
        load_adapter(nano, saved)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_file_is_named(saved, nano, name, kind):
    damage(saved / name, kind)
    with pytest.raises(UserError, match=rf"{re.escape(name)}: (missing|damaged)"):
        load_adapter(nano, saved)


@pytest.mark.parametrize(("file", "key"), [("adapter_config.json", "lora_alpha"), ("manifest.json", "step")])
def test_a_changed_digit_is_named(saved, nano, file, key):
    path = saved / file
    altered = json.loads(path.read_text())
    altered[key] *= 8
    path.write_text(json.dumps(altered, indent=1))
    with pytest.raises(UserError, match=rf"{re.escape(file)}: damaged \(its checksum differs\)"):
        load_adapter(nano, saved)


def test_an_adapter_fits_the_same_base_in_a_folder_of_another_name(llava_folder, tiny, tmp_path):
    base = load_mllm(RankerArgs(model=str(llava_folder)))
    save_adapter(add_lora(base, LoraArgs(rank=2)), tmp_path / "adapter", tiny(tmp_path), {})
    copy = shutil.copytree(llava_folder, tmp_path / "snapshot-of-it")
    load_adapter(load_mllm(RankerArgs(model=str(copy))), tmp_path / "adapter")
