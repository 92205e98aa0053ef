"""The doctor: each check on valid and on broken parts, and the command."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.hub import check_hub
from data_prep.core.paths import NANO_MLLM
from data_prep.settings import DataArgs, RankerArgs, Recipe, TrackingArgs
from data_prep.settings.loading import load_recipe
from rar_train.doctor import machine as machine_checks
from rar_train.doctor.__main__ import main
from rar_train.doctor.data import DataSummary, check_data, data_findings
from rar_train.doctor.findings import STATUSES, Finding, print_findings, run_check
from rar_train.doctor.machine import (
    check_compiler,
    check_deepspeed,
    check_disk,
    check_gpu,
    check_packages,
    check_python,
    check_wandb,
    requirements,
)
from rar_train.doctor.memory import suggest_changes
from rar_train.doctor.models import check_family, check_ranker, check_retriever
from rar_train.doctor.plan import check_candidates, check_figures, check_shots, check_steps
from rar_train.doctor.recipe import (
    check_letters,
    check_memory,
    check_prompt,
    check_time,
    check_yes_no,
    recipe_findings,
    resolve_recipe,
)
from rar_train.engine.memory_estimate import Estimate
from rar_train.models.loading import load_mllm
from rar_train.models.lora import add_lora, parameter_table
from rar_train.models.meta import build_on_meta, local_folder, missing_weights
from tests.commands import command_line, environment

SUMMARY = DataSummary(["azure, a bend or", "gules, a chevron argent", "vert"], 300)


def make_recipe(*settings: str) -> Recipe:
    return load_recipe(["recipe=ranker_lora", "trainer.accelerator=cpu", *settings])


def build_nano(recipe: Recipe):
    return build_on_meta(recipe.ranker, NANO_MLLM)


@pytest.fixture(scope="module")
def offline():
    """Makes the hub unreachable, whatever the machine's network."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    check_hub.cache_clear()
    yield
    constants.HF_HUB_OFFLINE = before
    check_hub.cache_clear()


def test_a_user_error_is_a_failure_and_any_other_exception_is_not_checked():
    def fail():
        raise UserError("fix it")

    assert run_check("a", fail) == [Finding("a", "failure", "fix it")]
    assert run_check("a", lambda: 1 / 0)[0].status == "not checked"
    assert "ZeroDivisionError" in run_check("a", lambda: 1 / 0)[0].found


def test_the_table_shows_status_and_advice_also_with_brackets(capsys):
    print_findings([Finding("disk", "ok", "fine"), Finding("wandb", "failure", "x [red] y", "pip install 'a[b]'")])
    output = capsys.readouterr().out
    assert "x [red] y" in output and "pip install 'a[b]'" in output and "1 ok, 1 failure" in output


def test_packages_that_are_missing_or_old_are_named():
    assert [finding.status for finding in check_packages(requirements())] == ["ok"]
    wrong = check_packages([Requirement("numpy>=99"), Requirement("no-such-package>=1"), Requirement("numpy>=1")])
    assert [finding.status for finding in wrong] == ["failure", "failure"]
    assert "but numpy>=99" in wrong[0].found and "not installed" in wrong[1].found
    assert "pip install 'no-such-package>=1'" in wrong[1].advice
    assert check_python()[0].status == "ok" and check_python("3.9.1")[0].status == "failure"


def test_a_recipe_for_a_gpu_fails_without_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert check_gpu(None)[0].status == "warning"
    recipe = make_recipe()
    for accelerator in ("gpu", "mps"):
        on_gpu = replace(recipe, trainer=replace(recipe.trainer, accelerator=accelerator))
        assert check_gpu(on_gpu)[0].status == "failure"
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert check_gpu(on_gpu)[0].status == "ok"
    family = check_family(make_recipe("ranker.quantize=4bit"), NANO_MLLM, [])
    assert family[0].status == "failure" and "CUDA" in family[0].found


def test_missing_deepspeed_is_a_failure_only_where_the_recipe_needs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert check_deepspeed(make_recipe())[0].status == "warning"
    finding = check_deepspeed(make_recipe("trainer.strategy=deepspeed_stage_2"))[0]
    assert finding.status == "failure" and "needs Linux" in finding.found
    assert "pip install deepspeed ninja" in finding.advice


def test_a_compiler_that_is_not_found_is_a_warning(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert check_compiler()[0].status == "warning" and "no-such-compiler" in check_compiler()[0].found


def test_the_disk_check_reports_too_little_space_and_missing_permission(tmp_path, monkeypatch):
    recipe = make_recipe(f"out={tmp_path}/runs/a", f"cache={tmp_path}/b/c")
    assert {finding.about for finding in check_disk(recipe)} == {"disk: cache", "disk: out"}
    (tmp_path / "file").write_text("")
    assert check_disk(make_recipe(f"out={tmp_path}/file/run"))[1].status == "failure"
    monkeypatch.setattr(machine_checks, "_MIN_GB", {"cache": 1e9, "out": 0})
    monkeypatch.setattr(machine_checks, "_AMPLE_GB", 0)
    assert [finding.status for finding in check_disk(recipe)] == ["failure", "ok"]
    assert not (tmp_path / "runs").exists()


def test_the_tracker_needs_a_key_only_online(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert check_wandb(TrackingArgs())[0].status == "ok"
    online = TrackingArgs(wandb="online")
    assert check_wandb(online)[0].status == "failure"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key")
    (tmp_path / ".netrc").chmod(0o600)
    assert check_wandb(online)[0].status == "ok"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "by WANDB_MODE" in check_wandb(online)[0].found


def _write_images(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng([index, len(name)]).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def test_data_is_checked_by_its_classes(tmp_path):
    def check(args: DataArgs, read: bool = False):
        return run_check("data", check_data, args, tmp_path / "cache", read, summary)

    summary = DataSummary()
    good = DataArgs(name="folder", root=str(_write_images(tmp_path / "good", {"a": 5, "bb": 5, "ccc": 5})))
    assert check(good)[0].status == "ok" and "15 images of 3 classes" in check(good)[0].found
    assert (summary.names, summary.images) == (["a", "bb", "ccc"], 9)
    assert not (tmp_path / "cache").exists()  # nothing is written
    few = DataArgs(name="folder", root=str(_write_images(tmp_path / "few", {"a": 5, "bb": 5, "ccc": 2})))
    assert check(few)[0].status == "failure" and "ccc" in check(few)[0].found
    assert check(replace(few, on_small_class="skip"))[0].status == "warning"
    assert summary.names == ["a", "bb"]
    single = DataArgs(
        name="folder", root=str(_write_images(tmp_path / "single", {"a": 5, "b": 1})), on_small_class="skip"
    )
    assert check(single)[0].status == "failure"
    for wrong, message in (
        (DataArgs(name="folder", root=str(tmp_path / "nowhere")), "no such folder"),
        (DataArgs(name="folder"), "needs data.root"),
        (DataArgs(name="armoury"), "armory"),
    ):
        assert check(wrong)[0].status == "failure" and message in check(wrong)[0].found
    other = replace(good, name="imagefolder")
    assert check(other)[0].status == "not checked" and "--read-data" in check(other)[0].advice
    assert check(other, read=True)[0].status == "ok" and "9 train" in check(other, read=True)[0].found
    (tmp_path / "good" / "a" / "0.png").write_text("not an image")
    assert check(good, read=True)[0].status == "warning" and "1 unreadable" in check(good, read=True)[0].found


def test_files_that_are_read_and_passed_over_are_counted(tmp_path, monkeypatch):
    root = _write_images(tmp_path / "mine", {"Felis/catus": 4, "Felis/chaus": 4, "Lynx/lynx": 4})
    (root / "Lynx" / "notes.txt").write_text("")
    (root / "Lynx" / "lynx" / "0.HEIC").write_bytes(b"\0\0\0 ftypheic" + bytes(20))
    monkeypatch.setattr("data_prep.core.images.optional_decoders", lambda: ["AVIF"])
    args = DataArgs(name="folder", root=str(root))
    classes, files, folders, heic = run_check("data", check_data, args, tmp_path / "cache", False, DataSummary())
    assert "13 images of 3 classes" in classes.found
    assert files.found == "12 .png, 1 .heic; passed over: 1 not an image: 1 .txt"
    assert folders.found.startswith("the 3 folders that hold images are the classes, such as Felis/catus")
    assert (heic.status, heic.advice) == ("warning", "pip install 'rar-train[heic]'")
    assert "1 .heic of 13 images can't be decoded here (HEIC)" in heic.found


def test_missing_shards_are_a_failure(tmp_path):
    findings, _ = data_findings(make_recipe(f"mining.shards={tmp_path}/none"), False)
    assert [(finding.about, finding.status) for finding in findings] == [("data", "ok"), ("shards", "failure")]


def test_models_are_found_locally_or_are_a_failure_without_a_hub(offline, llava_folder, tmp_path):
    assert check_ranker(make_recipe())[0].status == "ok"
    assert check_ranker(make_recipe(f"ranker.model={llava_folder}"))[0].status == "ok"
    missing = check_ranker(make_recipe("ranker.model=nobody/no-model"))[0]
    assert (
        missing.status == "failure"
        and "hub does not answer" in missing.found
        and "ranker.model=FOLDER" in missing.advice
    )
    half = shutil.copytree(llava_folder, tmp_path / "half")
    (half / "model.safetensors").unlink()
    assert missing_weights(half) == ["model.safetensors"]
    assert check_ranker(make_recipe(f"ranker.model={half}"))[0].status == "failure"
    assert local_folder("no such name") is None

    def retriever(*settings: str) -> Finding:
        return run_check("retriever", check_retriever, make_recipe(*settings).retriever)[0]

    assert retriever().status == "ok"
    assert retriever("retriever.model=ViT-B-16", "retriever.pretrained=openai").status == "failure"
    assert "openai" in retriever("retriever.model=ViT-B-16", "retriever.pretrained=opnai").found
    assert "unknown to open_clip" in retriever("retriever.model=ViT-B16").found
    file = ("retriever.model=ViT-B-16", f"retriever.pretrained={llava_folder / 'model.safetensors'}")
    assert "Set retriever.tag" in retriever(*file).found
    assert retriever(*file, "retriever.tag=openai").status == "ok"
    assert retriever(f"retriever.model=local-dir:{tmp_path}").status == "failure"
    assert retriever("retriever.model=timm:resnet18.a1_in1k").status == "failure"
    assert "needs retriever.pretrained: one of" in retriever("retriever.model=timm:resnet18").found
    for prefix in ("hf", "st"):
        assert retriever(f"retriever.model={prefix}:nobody/no-model").status == "failure"
        assert retriever(f"retriever.model={prefix}:{llava_folder}").status == "ok"
        assert "no config.json there" in retriever(f"retriever.model={prefix}:{tmp_path}").found
    pair = make_recipe("retriever.name_model=ViT-B16").retriever
    (finding,) = run_check("retriever", check_retriever, pair)
    assert "retriever.name_model=ViT-B16: unknown to open_clip" in finding.found


def test_an_unsupported_family_is_named(llava_folder, tmp_path):
    folder = shutil.copytree(llava_folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "blip-2"}))
    finding = run_check("ranker family", check_family, make_recipe(f"ranker.model={folder}"), folder, [])[0]
    assert finding.status == "failure" and "family blip-2 is not in the table" in finding.found
    fixed = run_check("ranker family", check_family, make_recipe("ranker.max_pixels=100"), NANO_MLLM, [])[0]
    assert fixed.status == "failure" and "ranker.max_pixels" in fixed.found


def test_a_model_on_the_meta_device_has_the_same_parameter_counts():
    recipe = make_recipe()
    on_meta, loaded = (add_lora(mllm, recipe.ranker.lora) for mllm in (build_nano(recipe), load_mllm(RankerArgs())))
    assert parameter_table(on_meta) == parameter_table(loaded)
    assert {parameter.device.type for parameter in on_meta.model.parameters()} == {"meta"}


def test_letters_that_share_a_token_matter_where_letters_are_used(monkeypatch):
    recipe = make_recipe()
    assert run_check("letters", check_letters, recipe, build_nano(recipe), SUMMARY)[0].status == "ok"
    shared = build_nano(recipe)
    monkeypatch.setattr(
        shared, "answer_ids", lambda prompt, answer: (5, ord(answer))
    )  # a space of its own, then a letter
    finding = run_check("letters", check_letters, recipe, shared, SUMMARY)[0]
    assert finding.status == "failure" and "token of its own" in finding.found
    without_letters = make_recipe("ranker.objectives.letters=0", "ranker.mode=likelihood")
    assert run_check("letters", check_letters, without_letters, shared, SUMMARY)[0].status == "ok"


def test_a_prompt_that_does_not_fit_is_a_failure():
    recipe = make_recipe()
    assert check_prompt(recipe, build_nano(recipe), SUMMARY)[0].status == "ok"
    tight = make_recipe("ranker.max_tokens=30")
    finding = check_prompt(tight, build_nano(tight), SUMMARY)[0]
    assert finding.status == "failure" and "of 30 tokens" in finding.found and "mining.k" in finding.advice
    # Where shorter names fit, only the longer examples are left out.
    uneven = DataSummary([f"a bend {index} " * 200 for index in range(5)] + list("abcdef"), 300)
    assert check_prompt(recipe, build_nano(recipe), uneven)[0].status == "warning"
    assert check_prompt(recipe, build_nano(recipe), DataSummary())[0].status == "not checked"


def test_memory_is_estimated_and_advised_on(monkeypatch):
    recipe = make_recipe()
    finding = check_memory(recipe, build_nano(recipe), SUMMARY)[0]
    assert finding.status == "ok" and "310,192 of 2,129,792 parameters trained" in finding.found
    split = make_recipe("trainer.devices=2", "trainer.strategy=deepspeed_stage_3")
    assert "it fits without stage 3" in check_memory(split, build_nano(split), SUMMARY)[0].advice
    monkeypatch.setattr("os.sysconf", lambda name: 1000)  # a machine with a megabyte
    finding = check_memory(recipe, build_nano(recipe), SUMMARY)[0]
    assert finding.status == "failure" and "with gradient checkpointing" in finding.found
    assert "gradient_checkpointing" not in finding.advice  # it is on already, by auto
    off = make_recipe("trainer.gradient_checkpointing=false")
    finding = check_memory(off, build_nano(off), SUMMARY)[0]
    assert "without gradient checkpointing" in finding.found
    assert "trainer.gradient_checkpointing=true" in finding.advice
    monkeypatch.delattr("os.sysconf")  # as on Windows
    assert check_memory(recipe, build_nano(recipe), SUMMARY)[0].status == "not checked"
    assert check_memory(recipe, build_nano(recipe), DataSummary())[0].status == "not checked"


def test_changes_are_suggested_the_cheapest_first():
    needed = Estimate(weights=28e9, adapter=8e6, optimiser=8e6, activations=20e9)
    advice = suggest_changes(make_recipe("trainer.gradient_checkpointing=false"), needed, 24 * 2**30)
    changes = ("gradient_checkpointing=true", "optim.batch_size=8 optim.grad_accum_steps=2", "quantize=4bit", "stage_3")
    assert [advice.index(change) for change in changes] == sorted(advice.index(change) for change in changes)
    split = make_recipe("trainer.devices=8", "trainer.strategy=deepspeed_stage_3")
    assert "quantize" not in suggest_changes(split, needed, 24 * 2**30)  # four bits can't be partitioned


def test_time_is_estimated_only_from_a_measured_speed(tmp_path):
    recipe = make_recipe(f"out={tmp_path}", "mining.sources=[image]")
    finding = check_time(recipe, SUMMARY)[0]
    assert finding.status == "not checked" and "at most 19 steps on 300 examples" in finding.found
    (tmp_path / "log" / "from-step-000000").mkdir(parents=True)
    (tmp_path / "log" / "from-step-000000" / "metrics.csv").write_text("step,perf/images_per_s\n9,0.08\n10,\n")
    finding = check_time(recipe, SUMMARY)[0]
    assert finding.status == "ok" and "1.0 h at 0.1 images/s" in finding.found
    for index, damaged in enumerate((b"step,perf/images_per_s\n9,0.0x8\n", b"step,perf/images_per_s\n9,\xff\n"), 1):
        (tmp_path / "log" / f"from-step-00000{index}").mkdir()
        (tmp_path / "log" / f"from-step-00000{index}" / "metrics.csv").write_bytes(damaged)
    assert check_time(recipe, SUMMARY)[0] == finding


def test_embedded_models_on_other_data_are_a_warning():
    assert check_figures(make_recipe()) == []
    (finding,) = check_figures(make_recipe("data.name=folder", "data.root=photos"))
    assert finding.status == "warning" and "nothing about your data" in finding.found and "recipe=" in finding.advice
    photos, clip = ("data.name=folder", "data.root=photos"), "retriever.model=ViT-B-16"
    assert check_figures(load_recipe(["recipe=retriever_clip", clip, *photos])) == []  # nano-mllm is not used


def test_the_tokens_of_yes_and_no_are_checked_where_they_are_used():
    def find(*settings: str) -> list[Finding]:
        recipe = make_recipe(*settings)
        return run_check("yes and no", check_yes_no, recipe, build_nano(recipe), SUMMARY)

    assert find() == []
    assert [f.status for f in find("ranker.objectives.yes_no=1")] == ["ok"]
    (untrained,) = find("ranker.mode=yes_no")
    assert untrained.status == "warning" and "nothing trains" in untrained.found


def test_candidates_beyond_letters_and_classes_are_warnings():
    def found(*settings: str, summary: DataSummary | None = None) -> str:
        findings = check_candidates(make_recipe(*settings), summary or DataSummary())
        assert {finding.status for finding in findings} <= {"warning"}
        return " ".join(finding.found for finding in findings)

    assert found() == found("ranker.mode=letters") == found("eval.k_max=40") == ""
    assert "shows 26 candidates at most" in found("ranker.mode=letters", "eval.k_max=40")
    assert "26 letters" in resolve_recipe(["recipe=ranker_lora", "ranker.mode=letters", "eval.k=30"])[1][0].found
    few = DataSummary(["a", "b", "c", "d"], class_sizes=[5] * 7)
    assert "mining.k=5, but there are 4 classes" in found(summary=few)
    assert "eval.k=8, but there are 7 classes" in found("eval.k=8", "mining.k=4", summary=few)
    assert found("eval.k=7", "mining.k=4", summary=few) == ""


def test_shots_that_classes_cannot_give_are_warnings():
    def found(*sizes: int) -> list[str]:
        findings = check_shots(recipe, DataSummary(class_sizes=list(sizes)))
        return [f"{finding.status}: {finding.found}" for finding in findings]

    recipe = make_recipe("eval.shots=[2,8]")
    assert found(8, 9) == ["ok: every class has 8 images or more"]
    assert found(4, 9, 3) == ["warning: eval.shots=8: 2 of 3 classes have fewer images, the least 3"]
    assert found(4, 7)[0].startswith("warning: eval.shots=8: no class has more than about 7 images for the memory")
    assert found()[0].startswith("not checked")


def test_steps_too_few_to_train_or_to_validate_are_reported():
    def found(images: int | None, *settings: str, val: int | None = None) -> list[str]:
        recipe = make_recipe("mining.sources=[image]", *settings)
        findings = check_steps(recipe, DataSummary(images=images, val_images=val))
        return [f"{finding.about} {finding.status}: {finding.found}" for finding in findings]

    assert found(160) == ["steps ok: at most 10 steps on 160 examples"]
    assert found(None)[0].startswith("steps not checked")
    assert found(160, "mining.construction=windows") == ["steps ok: at most 160 steps on 2560 examples"]
    assert found(15)[0].startswith("steps failure: at most 15 examples, which do not fill one step of 16")
    less, few = found(160, "optim.max_steps=3")
    assert "48 are trained on, less than one pass" in less and "too few for 4 validations" in few
    assert found(160, "optim.max_steps=12") == found(160)
    assert found(160, val=20)[0].startswith("validation warning: about 20 validation images, of which one is 5 points")
    retriever = load_recipe(["recipe=retriever_clip", "optim.batch_size=16", "optim.epochs=3"])
    assert check_steps(retriever, DataSummary(images=47))[0].found == "at most 6 steps on 47 examples"  # full batches
    draws = load_recipe(["recipe=retriever_clip_lora", "eval.shots=[1,4]", "retriever.tuning.iterations_per_shot=500"])
    assert check_steps(draws, DataSummary())[0].found == "6 draws, 7500 steps in all: 500 at 1 shots, 2000 at 4 shots"
    assert (
        check_steps(load_recipe(["recipe=retriever_clip_lora", "eval.shots=[]"]), DataSummary())[0].status == "failure"
    )


def test_every_check_of_a_recipe_runs(offline, tmp_path):
    findings = recipe_findings(make_recipe(f"out={tmp_path}"), False)
    assert {finding.about: finding.status for finding in findings} == {
        "data": "ok", "shots": "ok", "steps": "ok", "retriever": "ok", "ranker": "ok", "ranker family": "ok",
        "letters": "ok", "prompt": "ok", "memory": "ok", "time": "not checked",
    }  # fmt: skip
    missing = {
        finding.about: finding.status for finding in recipe_findings(make_recipe("ranker.model=no/where"), False)
    }
    assert missing["ranker"] == "failure"
    assert {missing[about] for about in ("ranker family", "letters", "prompt", "memory")} == {"not checked"}
    assert resolve_recipe(["recipe=ranker_lorra"])[1][0].status == "failure" and resolve_recipe([]) == (None, [])


def test_the_command_exits_with_1_where_a_check_fails(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["recipe=ranker_lora", "ranker.lora.rnk=8"])
    assert ended.value.code == 1
    assert "did you mean ranker.lora.rank?" in " ".join(capsys.readouterr().out.split())


def test_the_command_prints_only_json(tmp_path):
    done = subprocess.run(
        command_line("rar_train.doctor", "recipe=ranker_lora", "--json"),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    findings = json.loads(done.stdout)
    assert {finding["status"] for finding in findings} <= set(STATUSES)
    assert {"recipe", "python", "deepspeed", "compiler", "wandb", "data", "memory"} <= {f["about"] for f in findings}
    assert done.returncode == any(finding["status"] == "failure" for finding in findings)
    assert not any(tmp_path.iterdir())  # nothing is written
