"""The list of a run's evaluations, on the console and as a page."""

from __future__ import annotations

from eval.report.index import list_evaluations, write_index
from eval.report.predictions import PREDICTIONS
from eval.report.reading import read_evaluations
from tests.eval.evaluation_folder import write_evaluation


def test_an_evaluation_whose_predictions_were_deleted_to_save_space_is_still_listed(tmp_path):
    folder = write_evaluation(tmp_path)
    (entry,) = list_evaluations(folder.parent.parent)
    (folder / PREDICTIONS).unlink()
    (later,) = list_evaluations(folder.parent.parent)
    assert (later.name, later.top1) == (entry.name, entry.top1) == ("test-letters", ("50.0", "50.0", "50.0", ""))
    assert "test-letters/report.html" in write_index(folder.parent.parent).read_text()


def test_a_run_is_named_on_its_page_where_it_is_the_current_folder(tmp_path, monkeypatch):
    folder = write_evaluation(tmp_path)
    monkeypatch.chdir(folder.parent.parent)
    ((_, evaluated),) = read_evaluations(folder.parent.parent.relative_to(folder.parent.parent))
    assert evaluated.name == "run test-letters"
