"""Fits are stored with the models that they were fitted for."""

from __future__ import annotations

import threading

import pytest

from data_prep.core.errors import UserError
from eval.calibration.fusion import Fusion
from eval.calibration.open_set import Refusal
from eval.calibration.store import fits_path, load_fits, save_fits

FUSION, REFUSAL = Fusion(0.7, 0.4, 2.0, 0.05, "margin", 0.3), Refusal("score", -9.5)


def test_fits_are_read_back_and_a_later_fit_of_one_kind_keeps_the_others(tmp_path):
    path = fits_path(tmp_path, "letters", tmp_path / "adapter")
    assert load_fits(path, "a", "clip") == ({}, None)
    save_fits(path, "a", "clip", {"few_shot-4": FUSION}, None)
    save_fits(path, "a", "clip", {}, REFUSAL)
    save_fits(path, "a", "clip", {"zero_shot-0": FUSION}, None)
    assert load_fits(path, "a", "clip") == ({"few_shot-4": FUSION, "zero_shot-0": FUSION}, REFUSAL)


def test_fits_of_evaluations_that_end_at_the_same_time_are_all_kept(tmp_path):
    path = fits_path(tmp_path, "letters", tmp_path / "adapter")
    kinds = [f"few_shot-{shots}" for shots in range(8)]
    threads = [threading.Thread(target=save_fits, args=(path, "a", "clip", {kind: FUSION}, None)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_fits(path, "a", "clip")[0].keys() == set(kinds)


def test_fits_of_a_checkpoint_do_not_replace_those_of_the_runs_adapter(tmp_path):
    adapters = [tmp_path / "adapter", *(tmp_path / "checkpoints" / f"step-0000000{n}.adapter" for n in (4, 8))]
    for adapter in adapters:
        save_fits(fits_path(tmp_path, "letters", adapter), adapter.name, "clip", {"few_shot-4": FUSION}, None)
    for adapter in adapters:
        assert load_fits(fits_path(tmp_path, "letters", adapter), adapter.name, "clip")[0] == {"few_shot-4": FUSION}


def test_fits_of_another_adapter_are_refused_and_replaced(tmp_path):
    path = fits_path(tmp_path, "letters", tmp_path / "adapter")
    save_fits(path, "a", "clip", {"few_shot-4": FUSION}, REFUSAL)
    with pytest.raises(UserError, match=r"fitted for another adapter; fit again with python -m eval\.run"):
        load_fits(path, "b", "clip")
    save_fits(path, "b", "clip", {"few_shot-1": FUSION}, None)
    assert load_fits(path, "b", "clip") == ({"few_shot-1": FUSION}, None)


def test_fits_of_another_retriever_are_neither_used_nor_merged(tmp_path, caplog):
    path = fits_path(tmp_path, "letters", tmp_path / "adapter")
    save_fits(path, "a", "clip", {"few_shot-4": FUSION}, REFUSAL)
    assert load_fits(path, "a", "siglip") == ({}, None)
    assert "fitted with the retriever clip, not with siglip: not used" in caplog.text
    save_fits(path, "a", "siglip", {"few_shot-1": FUSION}, None)
    assert load_fits(path, "a", "siglip") == ({"few_shot-1": FUSION}, None)


def test_an_edited_file_is_refused_and_deleting_it_allows_a_new_fit(tmp_path):
    path = fits_path(tmp_path, "letters", tmp_path / "adapter")
    save_fits(path, "a", "clip", {"few_shot-4": FUSION}, REFUSAL)
    original = path.read_text()
    path.write_text(original.replace("-9.5", "-8.5"))
    for call in (lambda: load_fits(path, "a", "clip"), lambda: save_fits(path, "a", "clip", {}, REFUSAL)):
        with pytest.raises(UserError, match=r"fits-letters\.json: damaged .*; delete it and fit again"):
            call()
    path.unlink()
    save_fits(path, "a", "clip", {"few_shot-4": FUSION}, REFUSAL)
    assert path.read_text() == original
