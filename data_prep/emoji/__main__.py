"""``python -m data_prep.emoji --out FOLDER``: renders images of all emoji in eight design families.

    python -m data_prep.emoji --out data/emoji
    python -m data_prep.emoji --out data/emoji-64 --size 64 --packages cache/npm
    python -m rar_train.fit recipe=ranker_lora_lite data.root=data/emoji

About 1,900 classes. Fetches packages of emoji art with npm, each once, into the folder of --packages, and renders their
drawings at --size pixels on white. Existing output is reused. Writes FOLDER/pictures.csv, a folder of PNG files for
each package, and LICENSES.md: the art belongs to its authors, under the licences listed there. ``data.name=emoji``
reads the output.
"""

from __future__ import annotations

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

from data_prep.arguments.parser import CommandParser
from data_prep.core.command import announce, run_command
from data_prep.core.errors import UserError
from data_prep.core.files import read_json, read_sealed, write_folder, write_json
from data_prep.core.manifests import find_damage, hash_files
from data_prep.emoji.packages import ART, COLUMNS, METADATA, Art, Emoji, codes_by_name, read_art, read_classes, tarball
from data_prep.reading.kept import CONTENTS, seal

log = logging.getLogger(__name__)

MIN_FAMILIES = 3
"""Minimum number of families that draw a class: one each for train, val and test."""
_VERSION = 3  # of matching, rendering and the files: increase it when images or the layout change


def _render(svg: str, path: Path, size: int) -> tuple[str, str]:
    """Renders a drawing; returns the reason for leaving it out (or an empty string) and the image's SHA-256."""
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


def _folder_name(package: str) -> str:
    return package.rpartition("@")[0].rpartition("/")[2]


def classes_of_enough_families(classes: list[Emoji], arts: list[Art]) -> list[Emoji]:
    """Returns the classes that enough families draw."""
    families = Counter(code for code, _ in {(code, ART[art.package]) for art in arts for code in art.svgs})
    return [emoji for emoji in classes if families[emoji.code] >= MIN_FAMILIES]


def _licences(arts: list[Art]) -> str:
    lines = "".join(f"- `{_folder_name(art.package)}`: {art.licence}; npm package {art.package}\n" for art in arts)
    return f"# Licences of the art\n\nA folder holds one package's drawings, rendered.\n\n{lines}"


def render_all(classes: list[Emoji], arts: list[Art], out: Path, size: int) -> dict:
    """Renders the drawings of all packages and lists them; the folder is written completely or not at all.

    Returns:
        dict: Content of the manifest: classes, images by family, and drawings left out, by reason.
    """
    jobs = [(emoji, art, f"{_folder_name(art.package)}/{emoji.code}.png") for art in arts for emoji in classes]
    jobs = [(emoji, art, path) for emoji, art, path in jobs if emoji.code in art.svgs]
    log.info("emoji: rendering %d drawings of %d classes at %d pixels", len(jobs), len(classes), size)
    rendered, left_out, first_family = Counter(), Counter(), {}
    with write_folder(out) as part:
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            svgs, paths = [art.svgs[emoji.code] for emoji, art, _ in jobs], [part / path for *_, path in jobs]
            outcomes = list(pool.map(_render, svgs, paths, [size] * len(jobs), chunksize=32))
        with open(part / "pictures.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for (emoji, art, path), (reason, digest) in zip(jobs, outcomes, strict=True):
                family = ART[art.package]
                if not reason and first_family.setdefault(digest, family) != family:
                    reason = "copy of another family's"  # it would leak from one part into another
                    (part / path).unlink()
                if reason:
                    left_out[reason] += 1
                else:
                    rendered[family] += 1
                    writer.writerow([path, emoji.code, emoji.name, emoji.group, emoji.subgroup, family, emoji.keywords])
        (part / "LICENSES.md").write_text(_licences(arts), encoding="utf-8")
        metadata = {"size": size, "version": _VERSION, "packages": [METADATA, *(art.package for art in arts)]}
        metadata |= {"classes": len(classes), "pictures": dict(rendered), "left_out": dict(left_out)}
        write_json(part / "manifest.json", metadata)
        contents = hash_files(part)
        image_paths = [path for _, _, path in jobs if path in contents]  # in the order in which the reader lists them
        seal(part, {path: contents[path] for path in image_paths} | contents)
    return metadata


def _read_manifest(out: Path) -> dict:
    """Reads the manifest of a folder that ``render_all`` wrote; empty if any file is missing or damaged."""
    try:
        damage = find_damage(out, read_sealed(out / CONTENTS, ""))
    except UserError as error:
        damage = str(error).removesuffix("; ")
    if damage:
        log.warning("emoji: %s; rendering all images again", damage)
    return {} if damage else read_json(out / "manifest.json")


def make_emoji(out: Path, size: int, packages: Path) -> dict:
    """Fetches missing packages and renders their drawings, or reuses the existing output.

    Args:
        out: The output folder.
        size: Width and height of an image, in pixels.
        packages: Folder of npm packages.

    Returns:
        dict: Content of the manifest.

    Raises:
        UserError: resvg_py or npm is missing, or the folder contains other files.
    """
    has_output = any((out / name).is_file() for name in (CONTENTS, "manifest.json"))
    manifest = _read_manifest(out) if has_output else {}
    if manifest.get("size") == size and manifest.get("version") == _VERSION:
        log.info("emoji: reusing %s", out)
        return manifest
    if out.exists() and not has_output and any(out.iterdir()):
        raise UserError(f"--out {out}: holds files that are not this command's; choose another folder")
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise UserError("resvg_py is needed to render the drawings; pip install 'rar-train[lite]'") from None
    start = time.monotonic()
    classes = read_classes(tarball(METADATA, packages))
    codes = codes_by_name(classes)
    arts = []
    # Packages that list the character of each drawing come first: their names help to match the others' drawings.
    for package in sorted(ART, key=lambda name: _folder_name(name) not in ("noto", "twemoji", "openmoji")):
        arts.append(read_art(package, tarball(package, packages), classes, codes))
    log.info("emoji: %d packages read in %.0f s", len(arts), time.monotonic() - start)
    start = time.monotonic()
    metadata = render_all(classes_of_enough_families(classes, arts), arts, out, size)
    seconds = time.monotonic() - start
    log.info("emoji: rendered images by family %s into %s in %.0f s", metadata["pictures"], out, seconds)
    if metadata["left_out"]:
        log.warning("emoji: left out drawings by reason: %s", metadata["left_out"])
    return metadata


def main(arguments: list[str]) -> None:
    """Parses the command line and renders the images."""
    parser = CommandParser("data_prep.emoji")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--packages", type=Path, default=Path("cache/npm"))
    args = parser.parse_args(arguments)
    if args.size < 16:
        raise UserError(f"--size {args.size}: must be at least 16 pixels")
    announce(f"emoji: images into {args.out}")
    make_emoji(args.out, args.size, args.packages)


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
