"""Cells of tables as people and tools write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.reading.tables import is_empty, label_text, path_text, read_records


@pytest.mark.parametrize(
    ("value", "text"), [("cat", "cat"), (b"cat", "cat"), (3, "3"), (3.0, "3"), (0.5, "0.5"), (True, "True")]
)
def test_a_label_is_a_string_or_a_number(value, text):
    assert label_text(value, "here") == text


@pytest.mark.parametrize("value", [["cat"], ["cat", "dog"], {"name": "cat"}, None, float("inf"), b"k\xe4tzchen"])
def test_other_labels_raise_an_error_that_names_the_record(value):
    with pytest.raises(UserError, match="here: the class"):
        label_text(value, "here")


def test_missing_blank_and_nan_cells_are_empty():
    assert all(map(is_empty, (None, "", " \t", float("nan"))))
    assert not any(map(is_empty, (0, "0", False, [])))


@given(st.lists(st.text("ab ü", min_size=1), min_size=1, max_size=4))
def test_backslashes_separate_folders(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp()
    assert path_text("\\".join(parts), base, "here") == "/".join(parts)


def test_a_backslash_in_the_name_of_an_existing_file_is_kept(tmp_path):
    (tmp_path / "a\\b.png").write_text("")
    assert path_text("a\\b.png", tmp_path, "here") == "a\\b.png"
    assert path_text("./a//c.png", tmp_path, "here") == "a/c.png"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"path;label\na;b\n", "its columns are separated by ';'; the delimiter must be a comma"),
        ("a.csv", "path,label\nä,b\n".encode("cp1252"), "not readable as UTF-8"),
        ("a.csv", "path,label\na,b\n".encode("utf-16"), "not readable as UTF-8"),
        ("a.csv", b"path,label\na,or, a bend\n", "line 2: more cells than columns; a cell with a comma needs quotes"),
        ("a.jsonl", b"{}\n" + b"[" * 100_000 + b"\n", "line 2: not readable as JSON"),
        ("a.jsonl", b'{"label": ' + b"9" * 5000 + b"}\n", "line 1: not readable as JSON"),
    ],
)
def test_a_malformed_table_raises_with_line_and_cause(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_records(tmp_path / name)
    assert message in str(caught.value)
