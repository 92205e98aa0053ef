"""Page of the most uncertain labels: a single HTML file with thumbnails, to look through."""

from __future__ import annotations

from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, select_autoescape

from data_prep.core.files import write_text
from data_prep.core.progress import progress_bar
from data_prep.settings import RegionArgs
from eval.predict.job import Job
from eval.predict.opening import ImageOpener
from eval.predict.summary import Summary
from eval.report.thumbnails import thumbnail

MAX_IMAGES = 500
"""Maximum number of images on a page."""

_PIXELS = 112


def _thumbnails(job: Job, indices: list[int], regions: RegionArgs) -> dict[int, str | None]:
    """Makes thumbnails by index of the image, in the order of the files."""
    opener, thumbnails = ImageOpener(regions), {}
    for index in progress_bar("making thumbnails", sorted(indices)):
        items = list(job.items(index // job.per_part))
        image = opener.open_or_reason(items[index % job.per_part])
        thumbnails[index] = None if isinstance(image, str) else thumbnail(image.image, _PIXELS)
    return thumbnails


KINDS = {
    "none of the classes": "The image shows none of the classes, by the threshold fitted on validation images.",
    "by the retriever alone": "The ranker was not run: the retriever was certain, or is better alone.",
}
"""Kinds of labels on the page, with explanations."""


def _kinds_of(record: dict) -> list[int]:
    return [index for index, is_of in enumerate((record["known"] is False, not record["ranked"])) if is_of]


def _page_data(images: list[tuple[dict, str | None]]) -> dict:
    """Makes the data of the report's browser, which shows a label as a prediction without a true class."""
    names: dict[str, int] = {}
    cases = []
    for number, (record, _) in enumerate(images):
        ranking = [
            [names.setdefault(candidate["name"], len(names)), rank, candidate["score"], candidate["probability"]]
            for rank, candidate in enumerate(record["candidates"], 1)
        ]
        cases.append({"picture": number, "ranking": ranking, "kinds": _kinds_of(record)})
    return {
        "names": list(names),
        "class_pictures": [],
        "keys": [f"{record['path']} {record['id']}".rstrip() for record, _ in images],
        "pictures": [picture for _, picture in images],
        "settings": [],
        "kinds": list(KINDS.items()),
        "cases": cases,
    }


def write_page(path: Path, job: Job, summary: Summary, regions: RegionArgs) -> None:
    """Writes the page.

    Args:
        path: The page's file.
        job: The job, whose images are shown.
        summary: Its counts and most uncertain records.
        regions: How boxes are cropped.
    """
    most_uncertain = summary.most_uncertain()
    thumbnails = _thumbnails(job, [index for index, _ in most_uncertain], regions)
    images = [(record, thumbnails[index]) for index, record in most_uncertain]
    loader = ChoiceLoader([PackageLoader("eval.predict"), PackageLoader("eval.report")])
    environment = Environment(loader=loader, autoescape=select_autoescape(default=True))
    template = environment.get_template("labels.html.j2")
    title = f"Labels: {job.output.name}"
    write_text(path, template.render(title=title, summary=summary, shown=len(images), data=_page_data(images)))
