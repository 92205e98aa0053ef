"""The reference of settings: complete, found by words, and the page in the docs is current."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.arguments.reference import allowed_values, find_settings, list_settings
from data_prep.core.errors import UserError
from data_prep.keys import print_settings, settings_page
from data_prep.settings.loading import load_recipe
from data_prep.settings.values import known_keys

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"
LEAVES = [setting for setting in list_settings() if not setting.is_section]
ENUMERATED = [(setting.key, value) for setting in LEAVES for value in allowed_values(setting.key)]


def test_the_page_of_settings_is_current():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "python -m data_prep.keys --markdown > docs/settings.md"


def test_every_key_is_listed_with_type_and_meaning():
    assert [setting.key for setting in list_settings()] == known_keys()
    for setting in list_settings():
        assert setting.text.endswith((".", ")")), setting
        assert setting.is_section or (setting.kind and setting.default)


def test_the_defaults_shown_are_what_one_may_type(tmp_path):
    (tmp_path / "empty.yaml").write_text("task: ranker\nout: runs\n")
    recipe = f"recipe={tmp_path / 'empty.yaml'}"
    typed = [f"{setting.key}={setting.default}" for setting in LEAVES if not setting.default.startswith("(")]
    assert len(typed) > 150 and load_recipe([recipe, *typed]) == load_recipe([recipe])


def test_values_of_a_key_are_those_that_its_check_accepts():
    assert allowed_values("trainer.offload") == ["none", "optimizer", "all"]
    assert allowed_values("eval.fusion") == ["true", "false"]
    assert allowed_values("mining.sources") == ["image", "name", "fused", "tip", "tip_f", "linear_probe"]
    assert allowed_values("optim.lr") == allowed_values("out") == allowed_values("nothing") == []
    assert len({key for key, _ in ENUMERATED}) > 50


def test_a_section_a_key_or_a_word_finds_settings():
    assert {setting.key.rpartition(".")[0] for setting in find_settings("ranker.lora")} == {"ranker.lora"}
    assert [setting.key for setting in find_settings("optim.lr")] == ["optim.lr"]
    assert "eval.near_duplicate_threshold" in [setting.key for setting in find_settings("Near-Duplicate")]
    assert find_settings("") == LEAVES


@given(st.text(min_size=1))
def test_what_is_found_has_the_word(word):
    for setting in find_settings(word):
        assert word.lower() in f"{setting.key} {setting.text}".lower()


def test_listed_settings_fit_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_settings("")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "ranker.lora.rank=16  (int)" in lines and "``" not in "".join(lines)


def test_another_trainers_name_finds_our_setting(capsys):
    print_settings("gradient_accumulation_steps")
    assert "optim.grad_accum_steps=1  (int)" in capsys.readouterr().out
    with pytest.raises(UserError, match="qqqq: no setting has it"):
        print_settings("qqqq")
