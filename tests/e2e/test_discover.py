"""Name discovery resumes after a kill and gives the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_killed import kill_when


@pytest.mark.slow
def test_discovery_resumes_after_a_kill_to_the_same_files(run_command, small, shared_cache, tmp_path: Path):
    settings = (*small, "tracking.wandb=disabled", f"cache={shared_cache}")
    run_command("rar_train.fit", "recipe=ranker_lora", *settings, "out=run")
    arguments = ("--ckpt", "run", "eval.batch_size=2", "discover.sentences=none")
    replies = tmp_path / "run" / "discover"
    folder = replies / "armory-test-likelihood-discover.sentences=none"

    def count_answers(name: str) -> int:
        return sum(len(path.read_bytes().splitlines()) for path in replies.glob(f"answers-*/answers-{name}.*"))

    kill_when(tmp_path, lambda: count_answers("names") >= 4, "eval.discover", *arguments)
    assert not (folder / "names.jsonl").exists()
    kill_when(tmp_path, lambda: count_answers("rar") >= 4, "eval.discover", *arguments)
    assert not (folder / "results.json").exists()
    resumed = run_command("eval.discover", *arguments)
    assert "answers are there" in resumed.stderr and "names discovered" in resumed.stdout
    files = {path: path.read_bytes() for path in folder.glob("*.json*")}
    assert len(files) == 4
    for path in replies.glob("answers-*/*.jsonl"):
        path.unlink()
    run_command("eval.discover", *arguments)
    assert {path: path.read_bytes() for path in files} == files
