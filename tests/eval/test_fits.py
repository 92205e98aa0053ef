"""What was fitted is kept with the adapter that it belongs to."""

from __future__ import annotations

import threading

import pytest

from data_prep.errors import UserError
from eval.fits import fits_path, load_fits, save_fits
from eval.fusion import Fusion
from eval.unknown import Refusal

FUSION, REFUSAL = Fusion(0.7, 0.4, 2.0, 0.05, "margin", 0.3), Refusal("score", -9.5)


def test_fits_come_back_and_a_later_fit_of_one_kind_keeps_the_others(tmp_path):
    path = fits_path(tmp_path, "letters")
    assert load_fits(path, "a") == ({}, None)
    save_fits(path, "a", {"few_shot-4": FUSION}, None)
    save_fits(path, "a", {}, REFUSAL)
    save_fits(path, "a", {"zero_shot-0": FUSION}, None)
    assert load_fits(path, "a") == ({"few_shot-4": FUSION, "zero_shot-0": FUSION}, REFUSAL)


def test_fits_of_evaluations_that_end_at_once_are_all_kept(tmp_path):
    path = fits_path(tmp_path, "letters")
    kinds = [f"few_shot-{shots}" for shots in range(8)]
    threads = [threading.Thread(target=save_fits, args=(path, "a", {kind: FUSION}, None)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_fits(path, "a")[0].keys() == set(kinds)


def test_another_adapters_fits_are_refused_and_replaced(tmp_path):
    path = fits_path(tmp_path, "letters")
    save_fits(path, "a", {"few_shot-4": FUSION}, REFUSAL)
    with pytest.raises(UserError, match=r"fitted for another adapter; fit again with python -m eval\.run"):
        load_fits(path, "b")
    save_fits(path, "b", {"few_shot-1": FUSION}, None)
    assert load_fits(path, "b") == ({"few_shot-1": FUSION}, None)
