"""Operating system errors as messages for users: which path, what is wrong with it, and what to do."""

from __future__ import annotations

import ast
import errno
import re
from collections.abc import Iterator

from data_prep.core.errors import UserError

_AGAIN = "run the same command again, which goes on from what is done"
_EXPLANATIONS = {
    errno.ENOSPC: f"the disk is full; free some space and {_AGAIN}, or give another folder",
    errno.EDQUOT: f"your quota on this disk is used up; free some space and {_AGAIN}, or give another folder",
    errno.EFBIG: f"larger than a file may be here; raise the limit (ulimit -f unlimited) and {_AGAIN}",
    errno.EROFS: "is on a read-only disk; give another folder",
    errno.EACCES: "its permissions do not allow it; change them, or give another path",
    errno.EPERM: "its permissions do not allow it; change them, or give another path",
    errno.ENOENT: f"no such file or folder; if it was removed while the command ran, {_AGAIN}",
    errno.ENOTDIR: "a part of this path is a file, not a folder; give another path, or move that file away",
    errno.EEXIST: "exists already, as a file where a folder is needed; give another path, or move it away",
    errno.EISDIR: "is a folder where a file is needed; give another path, or move it away",
    errno.ENOTEMPTY: f"another command is writing there too; wait for it to end and {_AGAIN}",
    errno.EBUSY: f"is in use by another program; end that and {_AGAIN}",
    errno.EIO: f"its disk is failing (input/output error); check the disk and {_AGAIN}, or give another folder",
    errno.ESTALE: f"its network disk no longer knows it; once the disk is available again, {_AGAIN}",
    errno.EMFILE: f"too many files are open at once; raise the limit (ulimit -n 4096) and {_AGAIN}",
    errno.ENFILE: f"too many files are open on this machine; end other programs and {_AGAIN}",
    errno.ENAMETOOLONG: "its name is too long; give a shorter one",
    errno.ELOOP: "its symbolic links form a loop; give another path, or remove a link",
    errno.ENOMEM: f"the machine has no memory left; end other programs and {_AGAIN}",
}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
"""Disk failures that no code handles: any error raised while one of them was being handled was caused by it."""

_USER_ERROR = f"{UserError.__module__}.{UserError.__name__}: "
_OS_ERROR = re.compile(r"^\w*Error: \[Errno (\d+)\] [^:\n]*(?:: (?:.* -> )?('.*'|\".*\"))?$", re.MULTILINE)
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")
_PART = re.compile(r"\.([^/]+?)\.[^/]+-\d+-[0-9a-f]{8}\.part\b")


def describe_error(error: BaseException) -> str | None:
    """Returns the message of an error for a user.

    Args:
        error: The error as raised, in this process or in another one, of which only the text arrives here.

    Returns:
        str | None: The message of a ``UserError`` or of an operating system error; None for any other error.
    """
    if isinstance(error, UserError):
        return describe_error_text(str(error)) or str(error)
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _EXPLANATIONS:
            return _explain(cause.errno, cause.filename2 or cause.filename)
    return describe_error_text(str(error))


def describe_error_text(text: str) -> str | None:
    """Returns the message for a user from the text of an error in another process or library; None if unknown."""
    if "Traceback" in text:
        _, separator, message = text.rpartition(_USER_ERROR)
        if separator:
            return message.strip()
        os_errors = _OS_ERROR.findall(text)
        if os_errors and int(os_errors[-1][0]) in _EXPLANATIONS:
            code, path = os_errors[-1]
            return _explain(int(code), ast.literal_eval(path) if path else None)
    rust = _RUST_ERROR.search(text)
    return f"{text.strip()}: {_EXPLANATIONS[int(rust[1])]}" if rust and int(rust[1]) in _EXPLANATIONS else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error, its explicit causes, and the disk failures during whose handling it was raised."""
    yield error
    seen = [error]  # a library may raise an error that names itself as its cause
    while (cause := error.__cause__ or error.__context__) is not None and cause not in seen:
        seen.append(cause)
        if error.__cause__ is not None or (isinstance(cause, OSError) and cause.errno in _DISK):
            yield cause
        error = cause


def _explain(code: int, path: str | bytes | int | None) -> str:
    if path is None or isinstance(path, int):
        subject = "the working folder" if code == errno.ENOENT else "a file, or the printed output"
    else:
        subject = _PART.sub(r"\1", path if isinstance(path, str) else repr(path)) or "an empty path"
    return f"{subject.encode('utf-8', 'backslashreplace').decode()}: {_EXPLANATIONS[code]}"
