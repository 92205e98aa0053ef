"""``python -m data_prep.emoji --out FOLDER``: pictures of all emoji, drawn by eight design families.

    python -m data_prep.emoji --out data/emoji
    python -m data_prep.emoji --out data/emoji-64 --size 64 --packages cache/npm
    python -m rar_train.fit recipe=ranker_lora_lite data.root=data/emoji

About 1,900 classes. Fetches packages of art with npm, each once, into the folder of --packages, and renders their
drawings at --size pixels on white. What is there is reused. Writes FOLDER/pictures.csv, a folder of PNG files for each
package, and LICENSES.md: the art is its authors', under the licences listed there. ``data.name=emoji`` reads it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import logging
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from data_prep.core.command import run_command
from data_prep.core.errors import UserError
from data_prep.core.files import read_json, read_sealed, write_folder, write_json
from data_prep.core.manifests import find_damage, hash_files
from data_prep.emoji.packages import ART, COLUMNS, METADATA, Art, Emoji, codes_by_name, read_art, read_classes, tarball
from data_prep.reading.kept import CONTENTS, seal

log = logging.getLogger(__name__)

FEWEST_FAMILIES = 3
"""Families that must draw a class: one to tune on, one to choose and one to measure on."""
_VERSION = 2  # of matching, rendering and the files: raise it when pictures or the layout change


def _render(svg: str, path: Path, size: int) -> tuple[str, str]:
    """Renders a drawing; gives the reason why it is left out, or its content's hash."""
    import resvg_py
    from PIL import Image

    try:
        data = bytes(
            resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True)
        )
    except ValueError as error:
        return f"not rendered: {error}", ""
    if all(low == high for low, high in Image.open(io.BytesIO(data)).convert("RGB").getextrema()):
        return "blank", ""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return "", hashlib.sha256(data).hexdigest()


def _folder_of(package: str) -> str:
    return package.rpartition("@")[0].rpartition("/")[2]


def drawn_often(classes: list[Emoji], arts: list[Art]) -> list[Emoji]:
    """The classes that enough families draw."""
    families = Counter(code for code, _ in {(code, ART[art.package]) for art in arts for code in art.svgs})
    return [emoji for emoji in classes if families[emoji.code] >= FEWEST_FAMILIES]


def _licences(arts: list[Art]) -> str:
    lines = "".join(f"- `{_folder_of(art.package)}`: {art.licence}; npm package {art.package}\n" for art in arts)
    return f"# Licences of the art\n\nA folder holds one package's drawings, rendered.\n\n{lines}"


def render_all(classes: list[Emoji], arts: list[Art], out: Path, size: int) -> dict:
    """Renders the drawings of all packages and lists them; the folder is whole or absent.

    Returns:
        dict: What the manifest holds: classes, pictures by family, and what was left out, by reason.
    """
    jobs = [(emoji, art, f"{_folder_of(art.package)}/{emoji.code}.png") for art in arts for emoji in classes]
    jobs = [(emoji, art, path) for emoji, art, path in jobs if emoji.code in art.svgs]
    log.info("emoji: rendering %d drawings of %d classes at %d pixels", len(jobs), len(classes), size)
    drawn, left_out, owners = Counter(), Counter(), {}
    with write_folder(out) as part:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            svgs, paths = [art.svgs[emoji.code] for emoji, art, _ in jobs], [part / path for *_, path in jobs]
            rendered = list(pool.map(_render, svgs, paths, [size] * len(jobs), chunksize=32))
        with open(part / "pictures.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for (emoji, art, path), (reason, digest) in zip(jobs, rendered, strict=True):
                family = ART[art.package]
                if not reason and owners.setdefault(digest, family) != family:
                    reason = "copy of another family's"  # it would leak from one part into another
                    (part / path).unlink()
                if reason:
                    left_out[reason] += 1
                else:
                    drawn[family] += 1
                    writer.writerow([path, emoji.code, emoji.name, emoji.group, emoji.subgroup, family])
        (part / "LICENSES.md").write_text(_licences(arts), encoding="utf-8")
        metadata = {"size": size, "version": _VERSION, "packages": [METADATA, *(art.package for art in arts)]}
        metadata |= {"classes": len(classes), "pictures": dict(drawn), "left_out": dict(left_out)}
        write_json(part / "manifest.json", metadata)
        contents = hash_files(part)
        listed = [path for _, _, path in jobs if path in contents]  # in the order in which they are read
        seal(part, {path: contents[path] for path in listed} | contents)
    return metadata


def _whole(out: Path) -> dict:
    """What the manifest of a folder that ``render_all`` made holds; nothing where a file is missing or damaged."""
    try:
        found = find_damage(out, read_sealed(out / CONTENTS, ""))
    except UserError as error:
        found = str(error).removesuffix("; ")
    if found:
        log.warning("emoji: %s; all is made again", found)
    return {} if found else read_json(out / "manifest.json")


def make_emoji(out: Path, size: int, packages: Path) -> dict:
    """Fetches what is missing and renders it, or finds it done.

    Args:
        out: The data's folder.
        size: Width and height of a picture, in pixels.
        packages: Where npm's packages are kept.

    Raises:
        UserError: resvg_py or npm is missing, or the folder holds something else.
    """
    own = any((out / name).is_file() for name in (CONTENTS, "manifest.json"))
    kept = _whole(out) if own else {}
    if kept.get("size") == size and kept.get("version") == _VERSION:
        log.info("emoji: reusing %s", out)
        return kept
    if out.exists() and not own and any(out.iterdir()):
        raise UserError(f"--out {out}: holds files that are not this command's; choose another folder")
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise UserError("resvg_py is needed to render the drawings; pip install 'rar-train[lite]'") from None
    start = time.monotonic()
    classes = read_classes(tarball(METADATA, packages))
    codes = codes_by_name(classes)
    arts = []
    # Packages that say which character they draw come first: their drawings' names help with the others.
    for package in sorted(ART, key=lambda name: _folder_of(name) not in ("noto", "twemoji", "openmoji")):
        arts.append(read_art(package, tarball(package, packages), classes, codes))
    log.info("emoji: %d packages read in %.0f s", len(arts), time.monotonic() - start)
    start = time.monotonic()
    metadata = render_all(drawn_often(classes, arts), arts, out, size)
    log.info("emoji: %s in %s in %.0f s", metadata["pictures"], out, time.monotonic() - start)
    if metadata["left_out"]:
        log.warning("emoji: left out %s", metadata["left_out"])
    return metadata


def main(arguments: list[str]) -> None:
    """Reads the command line and makes the pictures."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.emoji")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--packages", type=Path, default=Path("cache/npm"))
    args = parser.parse_args(arguments)
    if args.size < 16:
        raise UserError(f"--size {args.size}: must be at least 16 pixels")
    make_emoji(args.out, args.size, args.packages)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
