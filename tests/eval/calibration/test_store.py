"""Fits are stored with the models that they were fitted for."""

from __future__ import annotations

import threading

import pytest

from data_prep.core.errors import UserError
from eval.calibration.choice import Choice
from eval.calibration.fusion import Fusion
from eval.calibration.open_set import Refusal
from eval.calibration.store import choices_path, load_choices, save_choices

FUSION = Fusion(0.7, 20.0, 10.0, 0.4, 2.0, 30.0, 15.0, "margin", 0.3)
CHOICE = Choice("rar_fused", "fused", 20, 1, "the highest top-1", 400, [{"k": 20}], [], FUSION)
REFUSAL = Refusal("score", -9.5)


def test_fits_are_read_back_and_a_later_fit_of_one_kind_keeps_the_others(tmp_path):
    path = choices_path(tmp_path, "letters", tmp_path / "adapter")
    assert load_choices(path, "a", "clip") == ({}, None)
    save_choices(path, "a", "clip", {"few_shot-4": CHOICE}, None)
    save_choices(path, "a", "clip", {}, REFUSAL)
    save_choices(path, "a", "clip", {"zero_shot-0": CHOICE}, None)
    assert load_choices(path, "a", "clip") == ({"few_shot-4": CHOICE, "zero_shot-0": CHOICE}, REFUSAL)


def test_fits_of_evaluations_that_end_at_the_same_time_are_all_kept(tmp_path):
    path = choices_path(tmp_path, "letters", tmp_path / "adapter")
    kinds = [f"few_shot-{shots}" for shots in range(8)]
    threads = [threading.Thread(target=save_choices, args=(path, "a", "clip", {kind: CHOICE}, None)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_choices(path, "a", "clip")[0].keys() == set(kinds)


def test_fits_of_a_checkpoint_do_not_replace_those_of_the_runs_adapter(tmp_path):
    adapters = [tmp_path / "adapter", *(tmp_path / "checkpoints" / f"step-0000000{n}.adapter" for n in (4, 8))]
    for adapter in adapters:
        save_choices(choices_path(tmp_path, "letters", adapter), adapter.name, "clip", {"few_shot-4": CHOICE}, None)
    for adapter in adapters:
        assert load_choices(choices_path(tmp_path, "letters", adapter), adapter.name, "clip")[0] == {
            "few_shot-4": CHOICE
        }


def test_fits_of_another_adapter_are_refused_and_replaced(tmp_path):
    path = choices_path(tmp_path, "letters", tmp_path / "adapter")
    save_choices(path, "a", "clip", {"few_shot-4": CHOICE}, REFUSAL)
    with pytest.raises(UserError, match=r"made for another adapter; make them again with python -m eval\.run"):
        load_choices(path, "b", "clip")
    save_choices(path, "b", "clip", {"few_shot-1": CHOICE}, None)
    assert load_choices(path, "b", "clip") == ({"few_shot-1": CHOICE}, None)


def test_fits_of_another_retriever_are_neither_used_nor_merged(tmp_path, caplog):
    path = choices_path(tmp_path, "letters", tmp_path / "adapter")
    save_choices(path, "a", "clip", {"few_shot-4": CHOICE}, REFUSAL)
    assert load_choices(path, "a", "siglip") == ({}, None)
    assert "made with the retriever clip, not with siglip: not used" in caplog.text
    save_choices(path, "a", "siglip", {"few_shot-1": CHOICE}, None)
    assert load_choices(path, "a", "siglip") == ({"few_shot-1": CHOICE}, None)


def test_an_edited_file_is_refused_and_deleting_it_allows_a_new_fit(tmp_path):
    path = choices_path(tmp_path, "letters", tmp_path / "adapter")
    save_choices(path, "a", "clip", {"few_shot-4": CHOICE}, REFUSAL)
    original = path.read_text()
    path.write_text(original.replace("-9.5", "-8.5"))
    for call in (lambda: load_choices(path, "a", "clip"), lambda: save_choices(path, "a", "clip", {}, REFUSAL)):
        with pytest.raises(UserError, match=r"choices-letters\.json: damaged .*; delete it and make it again"):
            call()
    path.unlink()
    save_choices(path, "a", "clip", {"few_shot-4": CHOICE}, REFUSAL)
    assert path.read_text() == original
