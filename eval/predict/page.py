"""Page of the most uncertain labels: a single HTML file with thumbnails, to look through."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

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
    images = [record | {"thumbnail": thumbnails[index]} for index, record in most_uncertain]
    environment = Environment(loader=PackageLoader("eval.predict"), autoescape=select_autoescape(default=True))
    template = environment.get_template("page.html.j2")
    write_text(path, template.render(title=f"Labels: {job.output.name}", summary=summary, images=images))
