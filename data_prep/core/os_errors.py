"""Errors of the operating system in a user's words: which path, what is wrong with it, and what to do."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator

from data_prep.core.errors import UserError

_AGAIN = "give the same command again, which goes on from what is done"
_KINDS = {
    errno.ENOSPC: f"the disk is full; free some space and {_AGAIN}, or give another folder",
    errno.EDQUOT: f"your quota on this disk is used up; free some space and {_AGAIN}, or give another folder",
    errno.EFBIG: f"larger than a file may be here; raise the limit (ulimit -f unlimited) and {_AGAIN}",
    errno.EROFS: "lies on a disk that can only be read; give another folder",
    errno.EACCES: "its permissions do not allow it; change them, or give another path",
    errno.EPERM: "its permissions do not allow it; change them, or give another path",
    errno.ENOENT: f"no such file or folder; if it was removed while the command ran, {_AGAIN}",
    errno.ENOTDIR: "a part of this path is a file, not a folder; give another path, or move that file away",
    errno.EEXIST: "is there already, as a file where a folder is needed; give another path, or move it away",
    errno.EISDIR: "is a folder where a file is needed; give another path, or move it away",
    errno.ENOTEMPTY: f"another command writes there too; wait for it to end and {_AGAIN}",
    errno.EBUSY: f"is in use by another program; end that and {_AGAIN}",
    errno.EIO: f"its disk fails (input/output error); check the disk and {_AGAIN}, or give another folder",
    errno.ESTALE: f"its network disk no longer knows it; once the disk is there again, {_AGAIN}",
    errno.EMFILE: f"too many files are open at once; raise the limit (ulimit -n 4096) and {_AGAIN}",
    errno.ENFILE: f"too many files are open on this machine; end other programs and {_AGAIN}",
    errno.ENAMETOOLONG: "its name is too long; give a shorter one",
    errno.ELOOP: "its links lead in a circle; give another path, or remove a link",
    errno.ENOMEM: f"the machine has no memory left; end other programs and {_AGAIN}",
}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
"""Kinds that nothing handles: what failed while one of them passed by, failed for it."""

_USER_ERROR = f"{UserError.__module__}.{UserError.__name__}: "
_OS_ERROR = re.compile(r"^\w*Error: \[Errno (\d+)\] [^:\n]*(?:: (?:.* -> )?('.*'|\".*\"))?$", re.MULTILINE)
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_PART = re.compile(r"\.([^/]+?)\.[^/]+-\d+-[0-9a-f]{8}\.part\b")


def describe_error(error: BaseException) -> str | None:
    """What an error says to a user.

    Args:
        error: As it was raised, in this process or in another one, which leaves its text alone.

    Returns:
        str | None: The words of a ``UserError``, or of an error of the operating system; None for any other.
    """
    if isinstance(error, UserError):
        return describe_error_text(str(error)) or str(error)
    for one in _causes(error):
        if isinstance(one, OSError) and one.errno in _KINDS:
            return _words(one.errno, one.filename2 or one.filename)
    return describe_error_text(str(error))


def describe_error_text(text: str) -> str | None:
    """The same, from the text that another process or library left of an error."""
    if "Traceback" in text:
        _, known, said = text.rpartition(_USER_ERROR)
        if known:
            return said.strip()
        found = _OS_ERROR.findall(text)
        if found and int(found[-1][0]) in _KINDS:
            number, path = found[-1]
            return _words(int(number), ast.literal_eval(path) if path else None)
    rust = _RUST_ERROR.search(text)
    return f"{text.strip()}: {_KINDS[int(rust[1])]}" if rust and int(rust[1]) in _KINDS else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it was raised from, and the failures of disks that it was raised after."""
    yield error
    seen = [error]  # a library may have an error name itself as its cause
    while (below := error.__cause__ or error.__context__) is not None and below not in seen:
        seen.append(below)
        if error.__cause__ is not None or (isinstance(below, OSError) and below.errno in _DISK):
            yield below
        error = below


def _words(number: int, path: str | bytes | int | None) -> str:
    if path is None or isinstance(path, int):
        place = "the folder that the command runs in" if number == errno.ENOENT else "a file, or what is printed"
    else:
        place = _PART.sub(r"\1", path if isinstance(path, str) else repr(path)) or "an empty path"
    return f"{place.encode('utf-8', 'backslashreplace').decode()}: {_KINDS[number]}"
