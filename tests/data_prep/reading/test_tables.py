"""Cells of tables as people and tools leave them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.reading.tables import is_empty, label_text, path_text, read_records


@pytest.mark.parametrize(
    ("value", "text"), [("cat", "cat"), (b"cat", "cat"), (3, "3"), (3.0, "3"), (0.5, "0.5"), (True, "True")]
)
def test_a_label_is_a_text_or_a_number(value, text):
    assert label_text(value, "here") == text


@pytest.mark.parametrize("value", [["cat"], ["cat", "dog"], {"name": "cat"}, None, float("inf"), b"k\xe4tzchen"])
def test_other_labels_are_refused_where_they_stand(value):
    with pytest.raises(UserError, match="here: the class"):
        label_text(value, "here")


def test_cells_that_say_nothing():
    assert all(map(is_empty, (None, "", " \t", float("nan"))))
    assert not any(map(is_empty, (0, "0", False, [])))


@given(st.lists(st.text("ab ü", min_size=1), min_size=1, max_size=4))
def test_backslashes_separate_folders(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp()
    assert path_text("\\".join(parts), base, "here") == "/".join(parts)


def test_a_backslash_of_a_files_own_name_stays(tmp_path):
    (tmp_path / "a\\b.png").write_text("")
    assert path_text("a\\b.png", tmp_path, "here") == "a\\b.png"
    assert path_text("./a//c.png", tmp_path, "here") == "a/c.png"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", b"path;label\na;b\n", "its columns are separated by ';'; the delimiter must be a comma"),
        ("a.csv", "path,label\nä,b\n".encode("cp1252"), "not readable as UTF-8"),
        ("a.csv", "path,label\na,b\n".encode("utf-16"), "not readable as UTF-8"),
        ("a.csv", b"path,label\na,or, a bend\n", "line 2: more cells than columns; a cell with a comma needs quotes"),
        ("a.jsonl", b"{}\n" + b"[" * 100_000 + b"\n", "line 2: not readable as JSON"),
        ("a.jsonl", b'{"label": ' + b"9" * 5000 + b"}\n", "line 1: not readable as JSON"),
    ],
)
def test_what_stands_in_the_way_is_named(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_records(tmp_path / name)
    assert said in str(caught.value)
