"""Loading recipes: precedence of the layers, and errors that name the key and suggest the nearest valid one."""

import os
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.settings import Recipe
from data_prep.settings.loading import load_recipe, load_saved_recipe, recipe_names, recipe_yaml, save_recipe
from data_prep.settings.values import check_value, coerce_value, flatten, nest, typed_value

RANKER = "recipe=ranker_lora"


def write(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.yaml").write_text(text)
    return f"recipe={folder / name}.yaml"


def error_message(arguments: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(arguments)
    return str(caught.value)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_in_the_package_loads(name):
    recipe = load_recipe([f"recipe={name}"])
    assert isinstance(recipe, Recipe)
    assert recipe.out


def test_the_package_contains_the_recipes_named_in_the_readme():
    assert {"ranker_lora", "nano_clip", "nano_mllm"} <= set(recipe_names())


def test_command_line_overrides_file_and_file_overrides_default(tmp_path):
    recipe = write(tmp_path, "mine", "task: ranker\nout: here\nmining: {k: 3, shard_size: 7}\n")
    loaded = load_recipe([recipe, "mining.k=4", "optim.lr=5e-4", "eval.shots=[1,2]"])
    assert (loaded.mining.k, loaded.mining.shard_size, loaded.mining.ground_truth) == (4, 7, "only_if_retrieved")
    assert (loaded.optim.lr, loaded.eval.shots) == (5e-4, [1, 2])


@pytest.mark.parametrize("value", ["off", "on"])
def test_text_that_yaml_would_read_as_a_boolean_stays_text_on_the_command_line(value):
    assert load_recipe([RANKER, f"trainer.progress={value}"]).trainer.progress == value


@pytest.mark.parametrize("value", ["2026_11", "007", "1e3", "no", "0x10", "12:30"])
def test_text_that_looks_like_a_number_stays_text_on_the_command_line(value):
    assert load_recipe([RANKER, f"out={value}"]).out == value


PATHS = ("set #1", "set: one", "[set]", "{set}", "set, two", "-set", "set!", "@set", "%set", "&set", "*set", "a & b")
TEXT_KEYS = ("out", "cache", "data.root", "tracking.project", "mining.shards", "discover.subject")


@pytest.mark.parametrize("start", [0, 6])
def test_a_path_with_yaml_syntax_is_taken_verbatim_and_survives_saving(start, tmp_path):
    typed = dict(zip(TEXT_KEYS, PATHS[start : start + 6], strict=True))
    recipe = load_recipe([RANKER, *(f"{key}={text}" for key, text in typed.items())])
    assert {key: attrgetter(key)(recipe) for key in TEXT_KEYS} == typed
    save_recipe(tmp_path / "recipe.yaml", recipe)
    assert load_saved_recipe(tmp_path / "recipe.yaml", []) == recipe


@given(st.text())
def test_text_is_taken_verbatim(text):
    assert typed_value("out", text) == text
    assert typed_value("data.root", text) == (None if text in ("", "null") else text)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("optim.lr=inf", "optim.lr=inf: must be a number below 2^63"),
        ("mining.weight=.inf", "mining.weight=inf: must be a number below 2^63"),
        ("optim.batch_size=99999999999999999999", "must be a number below 2^63"),
        ("eval.seeds=[1, 99999999999999999999]", "eval.seeds=99999999999999999999: must be a number below 2^63"),
        ("seed=-1", "seed=-1: must be in 0..4294967295"),
        ("seed=4294967296", "must be in 0..4294967295"),
        ("eval.seeds=[1,2,1]", "eval.seeds=[1, 2, 1]: a value is repeated"),
        ("eval.shots=[4,4]", "eval.shots=[4, 4]: a value is repeated"),
    ],
)
def test_numbers_that_no_stage_can_use_are_rejected(setting, expected):
    assert expected in error_message([RANKER, setting])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (
            "mining.sources=image,name",
            "must be one of image, name, fused, tip, tip_f, linear_probe; a list is written [image,name]",
        ),
        ("data.split_ratios=0.5", "data.split_ratios=[0.5]: must be 3 positive numbers"),
        ("eval.shots=", "eval.shots=: is a list; write it in brackets, [] for an empty one"),
        ("retriever.templates=[{}]", "retriever.templates is text, but YAML reads it as {}; put it in quotes"),
        ("retriever.templates=[a: {}]", "put it in quotes"),
        ("retriever.templates=[[a]]", "put it in quotes"),
    ],
)
def test_a_list_that_cannot_be_read_says_how_to_write_it(setting, expected):
    assert expected in error_message([RANKER, setting])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("eval.shots=4", [4]),
        ("eval.shots=1,2,4", [1, 2, 4]),
        ("eval.shots=[1e1]", [10]),
        ("data.split_ratios=0.5,0.25,.25", [0.5, 0.25, 0.25]),
        ("mining.sources=image", ["image"]),
        ("retriever.templates=a photo of a {}, a bird.", ["a photo of a {}, a bird."]),
        ("retriever.templates={} texture.", ["{} texture."]),
        ("optim.max_steps=1e3", 1000),
        ("optim.max_steps=1_000", 1000),
        ("optim.lr=2e-4", 2e-4),
        ("optim.lr=1", 1.0),
        ("trainer.resume=no", False),
        ("trainer.resume=True", True),
        ("eval.fusion=null", None),
        ("ranker.max_tokens=null", None),
        ("eval.k=8.0", 8),
    ],
)
def test_a_value_that_can_mean_one_thing_only_is_accepted(setting, expected, tmp_path):
    key, _, text = setting.partition("=")
    assert attrgetter(key)(load_recipe([RANKER, setting])) == expected
    if not text.startswith("{") and "{}," not in text:  # a recipe's YAML needs quotes there
        section, _, name = key.partition(".")
        file = write(tmp_path, "mine", f"base: ranker_lora\n{section}:\n  {name}: {text}\n")
        assert attrgetter(key)(load_recipe([file])) == expected


@given(st.recursive(st.integers(), lambda values: st.dictionaries(st.text("abc", min_size=1), values, min_size=1)))
def test_nesting_is_the_inverse_of_flattening(values):
    values = values if isinstance(values, dict) else {"a": values}
    assert nest(flatten(values)) == values


@given(st.lists(st.integers(-(2**60), 2**60), min_size=1), st.sampled_from(["eval.shots", "eval.seeds"]))
def test_numbers_between_commas_are_the_list_in_brackets(numbers, key):
    text = ",".join(map(str, numbers))
    assert coerce_value(key, typed_value(key, text)) == coerce_value(key, typed_value(key, f"[{text}]")) == numbers


def test_a_pipe_in_place_of_a_recipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match="not a file; give the path of a recipe"):
        load_saved_recipe(tmp_path / "recipe.yaml", [])


def test_elements_of_a_text_list_stay_text():
    assert typed_value("retriever.templates", "[2024, on, null, 'a, {}']") == ["2024", "on", "null", "a, {}"]
    assert "put text that contains commas, brackets" in error_message([RANKER, "retriever.templates=[{} texture.]"])


def test_optional_text_can_be_none():
    none = load_recipe([RANKER, "data.root=null", "retriever.pretrained=", "out=null"])
    assert (none.data.root, none.retriever.pretrained, none.out) == (None, None, "null")


@pytest.mark.parametrize("value", ["${oc.env:SECRET}", "a/${", "~/photographs", "local-dir:~", "???", "a\udcff", "a\0"])
def test_text_that_is_not_literal_or_not_valid_is_rejected(value):
    values = {"data.root": value, "eval.shots": [value], "mining.mix": [{"data": {"root": value}}]}
    for key, key_value in values.items():
        with pytest.raises(UserError, match=f"here: {key}=") as raised:
            check_value("here", key, key_value)
        str(raised.value).encode()  # characters that can't be encoded are escaped


def test_a_reference_is_never_resolved(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cr3t")
    file = write(tmp_path, "mine", "task: ranker\nout: ${oc.env:SECRET}\n")
    for arguments in ([file], [RANKER, "out=${oc.env:SECRET}"], [RANKER, "mining.k=${oc.env:SECRET}"]):
        message = error_message(arguments)
        assert "has no references" in message and "s3cr3t" not in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nout: [*b, *b]\n", "line 2: an alias (*a)"),
        ("out: " + "[" * 5000 + "]" * 5000, "nested more than 20 deep"),
        ("out: !!python/object/apply:pathlib.Path [x]\n", "a Python tag"),
        ("out: !!python/object/apply:os.system [x]\n", "a Python tag"),
        ("out: x\n# " + "x" * 1_000_000, "larger than"),
        ("retriever:\n  templates: [on]\n", "retriever.templates is text, but YAML reads it as True"),
        ("mining:\n  mix: [{data: {root: 2024_11}}]\n", "mining.mix.data.root is text, but YAML reads it as 202411"),
    ],
)
def test_a_recipe_file_must_be_plain_data(text, expected, tmp_path):
    assert expected in error_message([write(tmp_path, "mine", text)])


@pytest.mark.parametrize("line", ["out: 2026_11", "trainer:\n  progress: off"])
def test_text_that_yaml_reads_as_another_type_is_rejected_in_a_file(line, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"mine\.yaml: (out|trainer\.progress) is text, .*put it in quotes"):
        load_recipe([f"recipe={tmp_path / 'mine.yaml'}"])


def test_a_recipe_builds_on_its_base(tmp_path):
    write(tmp_path, "ground", "task: ranker\nout: ground\nmining: {k: 3, shard_size: 7}\n")
    write(tmp_path, "middle", "base: ground\nmining: {k: 4}\n")
    loaded = load_recipe([write(tmp_path, "top", "base: middle\nout: top\n")])
    assert (loaded.task, loaded.out, loaded.mining.k, loaded.mining.shard_size) == ("ranker", "top", 4, 7)


def test_a_users_recipe_can_build_on_a_recipe_in_the_package(tmp_path):
    loaded = load_recipe([write(tmp_path, "mine", "base: ranker_lora\nmining: {k: 4}\n")])
    assert (loaded.task, loaded.mining.k) == ("ranker", 4)


def test_recipes_that_name_each_other_as_base_are_rejected(tmp_path):
    write(tmp_path, "b", "base: a\n")
    message = error_message([write(tmp_path, "a", "base: b\ntask: ranker\nout: o\n")])
    assert "a -> b -> a" in message


def test_a_saved_recipe_is_read_back_unchanged(tmp_path):
    settings = ["mining.sources=[fused]", 'retriever.templates=["a photo of a {}."]', "data.root=null", "seed=3"]
    recipe = load_recipe([RANKER, *settings])
    saved = tmp_path / "recipe.yaml"
    saved.write_text(recipe_yaml(recipe))
    assert load_saved_recipe(saved, []) == recipe
    assert load_saved_recipe(saved, ["mining.k=4"]).mining.k == 4
    assert load_recipe([f"recipe={saved}"]) == recipe


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give recipe=NAME once; there are mllm_caltech"),
        ([RANKER, RANKER], "give recipe=NAME once"),
        (["recipe=ranker_lore"], "did you mean ranker_lora?"),
        (["recipe=zzzz"], "there are mllm_caltech"),
        (["recipe=missing.yaml"], "missing.yaml: no such file"),
        ([RANKER, "seed"], "seed: give settings as key=value"),
        ([RANKER, "mining.kk=3"], "unknown key mining.kk; did you mean mining.k?"),
        ([RANKER, "minning.k=3"], "unknown key minning.k; did you mean mining.k?"),
        ([RANKER, "data.seed.x=3"], "unknown key data.seed.x; did you mean data.seed?"),
        ([RANKER, "qqqqqq=3"], "unknown key qqqqqq"),
    ],
)
def test_an_unknown_recipe_or_key_is_named_with_the_nearest_valid_one(arguments, expected):
    assert expected in error_message(arguments)


def test_an_unknown_key_in_a_file_names_the_file(tmp_path):
    message = error_message([write(tmp_path, "mine", "base: ranker_lora\nranker: {lora: {rnk: 8}}\n")])
    assert "mine.yaml: unknown key ranker.lora.rnk; did you mean ranker.lora.rank?" in message


@pytest.mark.parametrize(
    "setting",
    [
        "mining.k=abc",
        "mining.k=5.5",
        "retriever.templates=abc",
        "data.seed=null",
        "ranker.lora=null",
        "eval.shots=[a]",
        "trainer.resume=maybe",
        "optim.lr=fast",
    ],
)
def test_a_value_of_the_wrong_type_names_its_key(setting):
    assert setting.split("=")[0] in error_message([RANKER, setting])


@pytest.mark.parametrize(
    "setting",
    [
        "task=foo",
        "mining.k=1",
        "mining.k=27",
        "mining.sources=[image,foo]",
        "mining.sources=[]",
        "mining.ground_truth=always",
        "data.split_ratios=[0.5,0.5]",
        "data.split_ratios=[0.9,0.2,0.2]",
        "data.on_small_class=keep",
        "data.on_error=keep",
        "data.armory.family_size=7",
        "data.armory.train_images=1",
        "data.armory.test_classes=0",
        "retriever.text_weight=2",
        "retriever.index=lsh",
        "retriever.candidate_unit=box",
        "retriever.aggregate=worst",
        "retriever.dtype=float8",
        "retriever.regions.large=10",
        "retriever.templates=[photo]",
        "ranker.mode=guess",
        "ranker.dtype=float8",
        "ranker.lora.rank=0",
        "ranker.lora.scope=vision",
        "trainer.strategy=fsdp",
        "trainer.precision=bf16-true",
        "trainer.precision=8-mixed",
        "tracking.wandb=on",
        "eval.split=train",
        "eval.k=0",
        "eval.shots=[0]",
        "eval.candidates=text",
        "out=",
        "cache=",
    ],
)
def test_a_value_out_of_range_names_its_key(setting):
    assert setting.split("=")[0] in error_message([RANKER, setting])


def test_objectives_need_one_weight_above_zero():
    zero = [f"ranker.objectives.{name}=0" for name in ("letters", "likelihood", "list")]
    assert "ranker.objectives" in error_message([RANKER, *zero])
    assert "ranker.objectives" in error_message([RANKER, "ranker.objectives.letters=-1"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: b: c\n", "not readable as YAML"),
        ("- task\n", "a recipe is a mapping"),
        ("out: here\n", "no value for task"),
        ("", "no value for out, task"),
        ("base: nowhere\n", "unknown recipe nowhere"),
    ],
)
def test_a_broken_recipe_file_says_what_is_wrong(tmp_path, text, expected):
    assert expected in error_message([write(tmp_path, "mine", text)])


def test_a_value_given_for_a_section_names_the_section():
    message = error_message([RANKER, "mining=3"])
    assert "command line: mining" in message
    assert "None" not in message


def test_for_a_key_without_its_section_the_full_key_is_suggested():
    assert "did you mean ranker.lora.rank?" in error_message([RANKER, "rank=8"])


def test_a_template_with_two_placeholders_is_rejected():
    assert "retriever.templates" in error_message([RANKER, 'retriever.templates=["a {} by {}"]'])


@pytest.mark.parametrize(
    "setting",
    [
        "eval.seeds=[]",
        "retriever.batch_size=0",
        "retriever.num_workers=-2",
        "data.seed=-1",
        "data.armory.memory_images=0",
        "data.armory.query_images=0",
        "data.armory.size=0",
    ],
)
def test_a_value_that_no_stage_can_work_with_names_its_key(setting):
    assert setting.split("=")[0] in error_message([RANKER, setting])


@pytest.mark.parametrize(
    "settings",
    [
        ("mining.target=truth_only", "ranker.objectives.listwise=1"),
        ("mining.streaming=true", "optim.group_by_length=true"),
        ("mining.ground_truth=keep_without",),
        ("optim.fused=true", "trainer.precision=16-mixed"),
        ("ranker.quantize=4bit", "trainer.strategy=deepspeed_stage_3"),
        ("trainer.feature_cache=true", "trainer.strategy=deepspeed_stage_3"),
    ],
)
def test_incompatible_settings_are_rejected(settings):
    with pytest.raises(UserError, match=settings[0].split("=")[0].split(".")[0]):
        load_recipe(["recipe=ranker_lora", *settings])
