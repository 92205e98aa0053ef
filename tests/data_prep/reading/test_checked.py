"""A file that cannot be decoded gets a reason and never stops or blocks a run; decoding has a memory budget."""

import contextlib
import os
import socket

import pytest

from data_prep.core import images
from data_prep.core.errors import UserError
from data_prep.core.memory_budget import MemoryBudget
from data_prep.reading import checked
from data_prep.reading.checked import MOST_BYTES, check_image
from data_prep.reading.dataset import hash_images


def odd_files(folder) -> dict[str, str]:
    """Creates files that cannot be decoded; returns the expected reason by file name."""
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


def test_undecodable_files_are_skipped_with_a_reason_or_raise(tmp_path, draw_picture, caplog):
    expected = odd_files(tmp_path)
    odd = tmp_path / os.fsdecode(b"k\xe4tzchen.png")
    draw_picture(tmp_path / "0.png", 0).rename(odd)
    long = tmp_path / f"{'x' * 300}.png"
    good = draw_picture(tmp_path / "1.png", 1)
    paths = [*(tmp_path / name for name in expected), odd, long, good]
    hashes = hash_images(paths, tmp_path / "cache", "skip")
    assert [digest is None for digest in hashes] == [True] * (len(paths) - 1) + [False]
    reasons = [check_image(path).get("reason") for path in paths]
    assert reasons == [*expected.values(), "file name that is not UTF-8", "file name too long", None]
    assert f"skipped {len(paths) - 1} images that cannot be shown (" in caplog.text
    assert hash_images(paths, tmp_path / "cache", "skip") == hashes
    with pytest.raises(UserError, match=r"pipe\.jpg: not readable as an image: pipe, not a file \(10 of 11 are not\)"):
        hash_images(paths, tmp_path / "cache", "raise")


def test_images_are_read_and_decoded_within_memory_budgets(tmp_path, draw_picture, monkeypatch):
    files = [draw_picture(tmp_path / f"{n}.png", n) for n in range(4)]
    requested = []

    class RecordingBudget(MemoryBudget):
        def holding(self, amount):
            requested.append(amount)
            return super().holding(amount)

    monkeypatch.setattr(checked, "_READ_BUDGET", RecordingBudget(1))
    monkeypatch.setattr(images, "_DECODING", RecordingBudget(1))
    assert all(hash_images(files, tmp_path / "cache", "raise"))
    assert len(requested) == 8 and {file.stat().st_size for file in files} < set(requested)
    assert 24 * 24 * 8 in requested
