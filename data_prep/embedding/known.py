"""Encoders whose identity is known from an earlier command, so that the model is loaded only if something is missing.

Loading an open_clip model takes seconds, most of them imports. A command that finds every embedding in the cache needs
nothing of it but its id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from data_prep.core.errors import UserError
from data_prep.core.files import fingerprint, read_sealed, remove, write_sealed
from data_prep.core.images import VERSION
from data_prep.core.paths import split_prefix
from data_prep.embedding.encoder import Encoder, load_encoder
from data_prep.embedding.open_clip_models import HUB, LOCAL, open_clip_name
from data_prep.embedding.own_encoder import OwnEncoder
from data_prep.embedding.pair import EncoderPair, split_settings, to_name_settings
from data_prep.settings import RetrieverArgs, TrainerArgs

_FORMAT = 2  # to be raised when load_encoder describes an encoder otherwise
_LIBRARIES = ("open_clip_torch", "timm", "tokenizers", "torch", "torchvision", "transformers")


def open_encoder(args: RetrieverArgs, processes: TrainerArgs, cache: Path) -> Encoder:
    """Returns the encoder that ``load_encoder`` loads; one of known identity is loaded when it embeds something.

    Args:
        args: Which model.
        processes: Devices and machines to embed on.
        cache: Folder of caches, which keeps identities by the settings, the model's files and the libraries' versions.

    Raises:
        UserError: As ``load_encoder``.
    """
    if args.name_model is not None:
        of_images, of_names = split_settings(args)
        with to_name_settings():
            names = open_encoder(of_names, processes, cache)
        return EncoderPair(open_encoder(of_images, processes, cache), names, args)
    files = _find_files(args)
    if files is None:
        return load_encoder(args, processes)
    stamps = [[path.name, *_stamp(path)] for path in files]
    versions = [version(library) for library in _LIBRARIES]
    path = cache / "encoders" / f"{fingerprint([_FORMAT, VERSION, asdict(args), stamps, versions])}.json"
    if not path.exists():
        encoder = load_encoder(args, processes)
        if not isinstance(encoder, OwnEncoder):  # one of the user's own also depends on its code
            known = {"id": encoder.id, "metadata": encoder.metadata}
            write_sealed(path, known | {"origin": encoder.origin, "reads_texts": encoder.reads_texts})
        return encoder
    return cast(Encoder, _KnownEncoder(path, processes, lambda: load_encoder(args, processes)))


def _find_files(args: RetrieverArgs) -> list[Path] | None:
    """Returns the files that a model is loaded from; None where only its library knows them."""
    name = open_clip_name(args)
    prefix, folder = split_prefix(name)
    if prefix == "st:":  # its library need not be installed here, so that its version is not among _LIBRARIES
        return None
    if prefix == LOCAL or (prefix and Path(folder).is_dir()):
        return sorted(path for path in Path(folder).rglob("*") if path.is_file())
    weights = Path(args.pretrained or "")
    return [weights] if weights.is_file() and not name.startswith(HUB) else None


def _stamp(path: Path) -> tuple[int, ...]:
    """Returns what changes with a file, short of reading it: size, times and inode."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


class _KnownEncoder:
    """Stands for an encoder until something other than its identity is asked for.

    Args:
        path: File of the identity.
        processes: Devices and machines to embed on.
        load: Loads the encoder.
    """

    def __init__(self, path: Path, processes: TrainerArgs, load: Callable[[], Encoder]):
        known = read_sealed(path)
        self.id, self.metadata, self.processes = known["id"], known["metadata"], processes
        self.origin, self.reads_texts = known["origin"], known["reads_texts"]
        self._path, self._load = path, load

    @cached_property
    def _loaded(self) -> Encoder:
        encoder = self._load()
        if encoder.id != self.id:
            remove(self._path)
            raise UserError(f"{encoder.metadata['model']}: its files have changed; run the command again")
        return encoder

    @property
    def image_encoder(self) -> Encoder:
        return cast(Encoder, self)

    @property
    def name_encoder(self) -> Encoder:
        return cast(Encoder, self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loaded, name)

    def __reduce__(self) -> tuple:
        return _itself, (self._loaded,)


def _itself(encoder: Encoder) -> Encoder:
    return encoder
