"""A job on disk: what is checked when it is continued, and that no line is lost or doubled."""

from __future__ import annotations

import pytest

from data_prep.core.errors import UserError
from eval.predict.items import Item
from eval.predict.job import Job

SETTINGS = {"top": 5, "eval": {"k": 5}}


def items(count: int) -> list[Item]:
    return [Item("file", f"{n}\udce9.png") for n in range(count)]


def begun(path, count: int = 10, settings: dict = SETTINGS, per_part: int = 4) -> tuple[Job, list[int]]:
    job = Job(path)
    return job, job.begin(job.write_list(items(count), per_part), settings)


def test_parts_are_written_once_and_read_in_order(tmp_path):
    job, pending = begun(tmp_path / "a.jsonl")
    assert pending == [0, 1, 2] and job.count_images(pending) == 10
    assert [list(job.items(part)) for part in pending] == [items(10)[:4], items(10)[4:8], items(10)[8:]]
    job.write_part(2, ["h\n", "i \u2028\n"])
    job.write_part(0, [f"{letter}\n" for letter in "abcd"])
    # Continued, with another batch size, and in a process that did not begin it.
    again, pending = begun(tmp_path / "a.jsonl", per_part=100)
    assert pending == [1] and not again.is_complete
    other = Job(tmp_path / "a.jsonl")
    other.load()
    assert other.pending() == [1] and list(other.items(1)) == items(10)[4:8]
    other.write_part(1, ["e\n", "f\n", "g\n", "g\n"])
    assert again.is_complete
    assert "".join(line for lines in again.parts() for line in lines) == "a\nb\nc\nd\ne\nf\ng\ng\nh\ni \u2028\n"
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_other_images_or_settings_are_an_error_that_says_so(tmp_path):
    path = tmp_path / "a.jsonl"
    begun(path)
    with pytest.raises(
        UserError, match=r"a\.jsonl\.parts: was begun with other images \(10 then, 11 now; .* number 11 "
    ):
        begun(path, 11)
    with pytest.raises(UserError, match=r"10 then, 9 now; .* number 10 on, 9"):
        begun(path, 9)
    with pytest.raises(UserError, match=r"other settings \(eval\.k: 5 -> 6\)"):
        begun(path, settings={"top": 5, "eval": {"k": 6}})
    assert begun(path)[1] == [0, 1, 2]
    with pytest.raises(UserError, match="no images in what was given"):
        begun(tmp_path / "b.jsonl", 0)


def test_a_damaged_part_is_an_error_and_is_made_again(tmp_path):
    job, _ = begun(tmp_path / "a.jsonl", 2)
    job.write_part(0, ["a\n", "b\n"])
    (part,) = (job.folder / "lines").iterdir()
    part.write_text("a\nc\n")
    with pytest.raises(UserError, match=r"damaged .* delete it and run the command again"):
        list(job.parts())
    part.unlink()
    with pytest.raises(UserError, match="part 0 was removed"):
        list(job.parts())
    assert begun(tmp_path / "a.jsonl", 2)[1] == [0]


def test_parts_that_another_job_left_are_not_taken_for_those_of_a_new_one(tmp_path):
    job, _ = begun(tmp_path / "a.jsonl", 2)
    job.write_part(0, ["a\n", "b\n"])
    (job.folder / "job.json").unlink()  # killed while the folder was being removed
    assert begun(tmp_path / "a.jsonl", 2)[1] == [0]
