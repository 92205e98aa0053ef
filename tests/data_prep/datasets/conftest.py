"""Fixtures that read a data set as the commands do, and return the message of its error."""

import pytest

from data_prep.core.errors import UserError
from data_prep.datasets import read_dataset
from data_prep.reading.dataset import PARTS
from data_prep.settings import DataArgs


@pytest.fixture
def read_named(tmp_path):
    """Reads a data set by name and root; other settings by keyword."""

    def read(name, root, parts=PARTS, **settings):
        return read_dataset(DataArgs(name=name, root=str(root), **settings), tmp_path / "cache", parts)

    return read


@pytest.fixture
def error_message(read_named):
    """Returns the message of the error that reading a data set raises."""

    def message(name, root, parts=PARTS, **settings) -> str:
        with pytest.raises(UserError) as caught:
            read_named(name, root, parts, **({"on_error": "raise"} | settings))
        return str(caught.value)

    return message
