"""One odd file is a reason, never a stop or a wait; and pictures are decoded within a budget of memory."""

import contextlib
import os
import socket

import pytest

from data_prep.core import images
from data_prep.core.errors import UserError
from data_prep.core.memory_budget import MemoryBudget
from data_prep.reading import checked
from data_prep.reading.checked import MOST_BYTES, check_picture
from data_prep.reading.dataset import digests


def odd_files(folder) -> dict[str, str]:
    """Makes files that cannot be shown; gives the reason by name."""
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "broken.jpg").symlink_to("nowhere")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "text.jpg").write_text("text")
    with open(folder / "large.jpg", "wb") as file:
        file.truncate(100 << 30)
    with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(folder):  # a socket's address is short
        bound.bind("socket.jpg")
    return {
        "pipe.jpg": "pipe, not a file",
        "folder.jpg": "folder, not a file",
        "broken.jpg": "broken link",
        "loop.jpg": "link to itself",
        "device.jpg": "device, not a file",
        "socket.jpg": "socket, not a file",
        "large.jpg": f"file of more than {MOST_BYTES / 1e9:.1f} GB",
        "text.jpg": "no known image format",
    }


def test_odd_files_are_skipped_with_their_reasons_or_refused(tmp_path, draw_picture, caplog):
    expected = odd_files(tmp_path)
    odd = tmp_path / os.fsdecode(b"k\xe4tzchen.png")
    draw_picture(tmp_path / "0.png", 0).rename(odd)
    long = tmp_path / f"{'x' * 300}.png"
    good = draw_picture(tmp_path / "1.png", 1)
    paths = [*(tmp_path / name for name in expected), odd, long, good]
    found = digests(paths, tmp_path / "cache", "skip")
    assert [digest is None for digest in found] == [True] * (len(paths) - 1) + [False]
    reasons = [check_picture(path).get("reason") for path in paths]
    assert reasons == [*expected.values(), "file name that is not UTF-8", "file name too long", None]
    assert f"skipped {len(paths) - 1} images that cannot be shown (" in caplog.text
    assert digests(paths, tmp_path / "cache", "skip") == found
    with pytest.raises(UserError, match=r"pipe\.jpg: not readable as an image: pipe, not a file \(10 of 11 are not\)"):
        digests(paths, tmp_path / "cache", "raise")


def test_pictures_are_read_and_decoded_within_budgets(tmp_path, draw_picture, monkeypatch):
    files = [draw_picture(tmp_path / f"{n}.png", n) for n in range(4)]
    asked = []

    class Noted(MemoryBudget):
        def holding(self, amount):
            asked.append(amount)
            return super().holding(amount)

    monkeypatch.setattr(checked, "_READING", Noted(1))
    monkeypatch.setattr(images, "_DECODING", Noted(1))
    assert all(digests(files, tmp_path / "cache", "raise"))
    assert len(asked) == 8 and {file.stat().st_size for file in files} < set(asked)
    assert 24 * 24 * 8 in asked
