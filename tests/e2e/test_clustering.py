"""``eval.clustering`` scores the predicted names of any method from files."""

import json


def test_two_runs_of_predicted_names_are_scored(run_command, tmp_path):
    truths = ["red fox", "red fox", "grey owl", "grey owl"]
    for run, guesses in (("a", ["fox", "fox", "owl", "owl"]), ("b", ["fox", "fox", "fox", "owl"])):
        lines = [json.dumps({"predicted": guess, "true": name}) for guess, name in zip(guesses, truths, strict=True)]
        (tmp_path / f"{run}.jsonl").write_text("\n".join(lines))
    done = run_command("eval.clustering", "--names", "a.jsonl", "b.jsonl", "--model", "none", "--out", "out.json")
    results = json.loads(done.stdout)
    assert [run["cacc"] for run in results["runs"]] == [1.0, 0.75]
    assert results["summary"]["cacc"]["mean"] == 0.875
    assert "sacc" not in results["runs"][0]
    assert json.loads((tmp_path / "out.json").read_text()) == results
