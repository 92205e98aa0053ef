"""Every format writes what its trainer reads, even with difficult names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from data_prep.core.errors import UserError
from data_prep.core.records import Sample
from data_prep.export.formats import FORMATS, JUDGED
from data_prep.export.writing import check_export, export, find_export_problem
from data_prep.mining.shards import ShardedExamples, write_shards
from data_prep.prompting.prompt_lengths import TokenCounter
from data_prep.prompting.replies import read_list
from data_prep.prompting.targets import target_names


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - JUDGED.keys()))
@pytest.mark.parametrize("target", ["truth_first", "truth_only", "graded"])
def test_in_every_format_the_reply_parser_reads_the_answers_back(shards, tmp_path, name, target):
    to = tmp_path / "out"
    assert export(shards, to, name, target, order="retriever") == {"exported": 9}
    turns = list(FORMATS[name].read(to))
    for turn, example in zip(turns, ShardedExamples(shards).examples(), strict=True):
        names = [candidate.name for candidate in example.candidates]
        ranking = read_list(turn.assistant, names)
        expected = list(target_names(example, target))
        assert [names[position] for position in ranking.order][: len(expected)] == expected
        assert (ranking.outcome == "ok") == (len(expected) == len(names))
        assert Image.open(to / turn.images[0]).size == (24, 24)
    assert len(list((to / "images").iterdir())) == 8  # two examples share an image
    assert json.loads((to / "export.json").read_text())["counts"] == {"exported": 9}


def test_llava_records_follow_the_documented_format(shards, tmp_path):
    export(shards, tmp_path / "out", "llava")
    record = json.loads((tmp_path / "out" / "llava.json").read_text())[0]
    assert record.keys() == {"id", "image", "conversations"} and record["id"] == "key0-image"
    assert [turn["from"] for turn in record["conversations"]] == ["human", "gpt"]
    assert record["conversations"][0]["value"].startswith("<image>\nPlease play the role")


@pytest.mark.parametrize(("name", "role", "user"), [("sharegpt", "from", "human"), ("openai", "role", "user")])
def test_the_dataset_info_for_llama_factory_gives_the_keys_and_roles_of_the_list(shards, tmp_path, name, role, user):
    export(shards, tmp_path / "out", name)
    (entry,) = json.loads((tmp_path / "out" / "dataset_info.json").read_text()).values()
    record = json.loads((tmp_path / "out" / entry["file_name"]).read_text())[0]
    first = record[entry["columns"]["messages"]][0]
    assert entry["formatting"] == "sharegpt" and entry["tags"]["role_tag"] == role
    assert first[role] == entry["tags"]["user_tag"] == user
    assert first[entry["tags"]["content_tag"]].startswith("<image>")
    assert record[entry["columns"]["images"]]


def test_swift_and_trl_records_hold_messages_and_images(shards, tmp_path):
    for name, images, tag in (("swift", "images", "<image>"), ("trl", "images_file_names", "")):
        export(shards, tmp_path / name, name)
        record = json.loads((tmp_path / name / FORMATS[name].FILE).read_text().splitlines()[0])
        assert [turn["role"] for turn in record["messages"]] == ["user", "assistant"]
        assert record["messages"][0]["content"].startswith(f"{tag}Please play")
        assert len(record[images]) == 1


def test_rar_records_have_the_released_prompt(shards, tmp_path):
    export(shards, tmp_path / "out", "rar", order="retriever", expert="aircraft classification")
    record = json.loads((tmp_path / "out" / "rar.json").read_text())[0]
    example = next(ShardedExamples(shards).examples())
    names = [candidate.name for candidate in example.candidates]
    assert (record["id"], len(record["image"])) == (0, 1)
    assert record["conversations"][0] == {
        "from": "user",
        "value": "Here is a image:<Img index=1><image></Img>. Please play the role of a aircraft classification "
        "expert, and sort the provided categories from high to low according to the top 5 similarity with the input "
        f"image. Here are the optional categories:{names}.",
    }
    assert record["conversations"][1] == {"from": "assistant", "value": str(target_names(example, "truth_first"))}


@pytest.mark.parametrize("order", ["shuffled", "retriever"])
def test_prompts_show_descriptions_as_in_training_but_for_the_released_one(shards, tmp_path, draw_picture, order):
    example = next(ShardedExamples(shards).examples())
    described = replace(example.candidates[1], description="a bird with long legs")
    tagged = replace(example.candidates[1], description="a <video> of a bird")
    pairs = []
    for key, candidate in (("a", described), ("b", tagged)):
        candidates = (example.candidates[0], candidate, *example.candidates[2:])
        path = draw_picture(tmp_path / f"{key}.png", 1)
        pairs.append((replace(example, key=key, candidates=candidates), Sample(key, str(path), 0, "")))
    (tmp_path / "described").mkdir()
    write_shards(tmp_path / "described", pairs, 4, {"part": "train", "dataset": "pets", "counts": {}})
    counts = export(tmp_path / "described", tmp_path / "out", "llava", order=order)
    assert counts == {"exported": 1, "dropped: a description holds a media tag": 1}
    (turn,) = FORMATS["llava"].read(tmp_path / "out")
    assert turn.user.endswith(f"\n{described.name}: a bird with long legs") and turn.user.count("\n") == 2
    assert export(tmp_path / "described", tmp_path / "rar", "rar", order=order) == {"exported": 2}
    assert all("bird" not in turn.user for turn in FORMATS["rar"].read(tmp_path / "rar"))


def test_candidates_are_shuffled_by_default(shards, tmp_path):
    export(shards, tmp_path / "a", "llava")
    export(shards, tmp_path / "b", "llava", order="retriever")
    export(shards, tmp_path / "c", "llava", seed=1)
    lists = [(tmp_path / folder / "llava.json").read_text() for folder in "abc"]
    assert len(set(lists)) == 3


def test_examples_that_would_break_a_trainer_are_skipped_and_counted(shards, tmp_path):
    assert find_export_problem(["a <image> of a cat", "dog"], 0, None) == "dropped: a name holds a media tag"
    assert find_export_problem(["cat", " "], 0, None) == "dropped: an empty name"
    counts = export(shards, tmp_path / "out", "swift", token_limit=(TokenCounter("nano-mllm"), 400))
    assert 0 < counts["exported"] < 9
    assert counts["exported"] + counts["dropped: longer than 400 tokens"] == 9
    with pytest.raises(UserError, match=r"nothing of .* could be exported .*longer than 3 tokens"):
        export(shards, tmp_path / "none", "swift", token_limit=(TokenCounter("nano-mllm"), 3))
    assert not (tmp_path / "none").exists()


def test_a_folder_with_other_files_is_never_replaced(shards, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="holds other files"):
        export(shards, tmp_path / "mine", "llava")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "dear"
    export(shards, tmp_path / "out", "llava")
    export(shards, tmp_path / "out", "swift")
    assert not (tmp_path / "out" / "llava.json").exists() and (tmp_path / "out" / "swift.jsonl").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<image>", "<image><image>", "2 image tags instead of 1"),
        ("fess, azure", "fess azure", "names that differ"),
        ("images/", "pictures/", "of which one is missing"),
    ],
)
def test_the_error_about_a_wrong_record_names_it(shards, tmp_path, old, new, message):
    from data_prep.export import swift
    from data_prep.export.conversation import Conversation

    folder = tmp_path / "out"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.png").touch()
    conversations = [Conversation("key0", "images/a.png", ["fess, azure", "b"], "Sort ['fess, azure', 'b'].", "['b']")]
    swift.write(folder, "pets", conversations)
    check_export(folder, "swift", conversations)
    path = Path(folder / swift.FILE)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=f"record of key0: .*{message}"):
        check_export(folder, "swift", conversations)
