"""The demo page: a Gradio page over ``eval.demo.actions``."""

from __future__ import annotations

import functools
import html
import importlib.util
import ipaddress
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader

from data_prep.core.errors import UserError
from data_prep.prompting.prompts import LETTERS
from data_prep.reading.finding import IMAGE_SUFFIXES
from data_prep.settings import check
from eval.demo.actions import MOST_PICTURES, Demo, Line, upload_error
from eval.recognition.recognizer import Recognizer
from eval.report.thumbnails import thumbnail

if TYPE_CHECKING:
    import gradio as gr

log = logging.getLogger(__name__)

_TITLE = "Retrieve and rank"


def _told(action: Callable) -> Callable:
    """An action whose ``UserError`` the page shows in place of a traceback."""
    import gradio as gr

    @functools.wraps(action)
    def run(*given):
        try:
            return action(*given)
        except UserError as error:  # shown as HTML
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None

    return run


def _uploaded(path: str, page: gr.Blocks) -> str:
    """A path that a visitor sent with a request, if it is that of an upload to this page.

    A program may send any path of this machine. The path of an upload holds a hash of the content with a secret of the
    server's, so that it is known to those alone who sent the content.

    Raises:
        gr.Error: It is none; the words are the same whether or not there is such a file.
    """
    import gradio as gr

    if path not in page.upload_file_set:
        raise gr.Error(html.escape(upload_error(Path(path).name), quote=False), print_exception=False)
    return path


def _take_uploads_alone(field: gr.components.Component, page: gr.Blocks) -> None:
    """Keeps Gradio from fetching addresses, and copying files, that a request names to the server's folder."""

    async def taken(path: str) -> str:
        return _uploaded(path, page)

    field.async_move_resource_to_block_cache = taken


def build_page(demo: Demo) -> gr.Blocks:
    """Lays the page out; ``launch`` serves it."""
    import gradio as gr

    with gr.Blocks(analytics_enabled=False, title=_TITLE) as page:
        gr.Markdown(f"# {_TITLE}\nThe retriever finds candidates in a memory, the ranker sorts them.")
        with gr.Tab("Recognise"):
            _recognise_tab(demo, page)
        with gr.Tab("Classes"):
            _classes_tab(demo, page)
    return page


def _recognise_tab(demo: Demo, page: gr.Blocks) -> None:
    import gradio as gr

    def recognise(picture: str | None, k: float):
        verdict, lines = demo.recognise(picture, int(k))
        ranking = [{key: value for key, value in asdict(line).items() if key != "example"} for line in lines]
        return _rendered(verdict, lines), {"verdict": verdict, "ranking": ranking}

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            picture = gr.Image(
                label=f"Picture (at most {demo.most_bytes / 1e6:g} MB)", type="filepath", image_mode=None,
                sources=["upload", "clipboard"], height=320, buttons=[],
            )  # fmt: skip
            _take_uploads_alone(picture, page)
            # Gradio would open it first and show a traceback of what is no picture; Demo.recognise says it in words.
            picture.preprocess = lambda dropped: dropped and dropped.path and _uploaded(dropped.path, page)
            asked = min(demo.recognizer.recipe.eval.k, len(LETTERS))
            k = gr.Slider(1, len(LETTERS), asked, step=1, label="Candidates")
            button = gr.Button("Recognise", variant="primary")
        with gr.Column(scale=3, min_width=280):
            shown = gr.HTML(_rendered("Drop a picture.", []))
    metrics = gr.JSON(visible=False)  # for programs that call the page
    button.click(_told(recognise), [picture, k], [shown, metrics], api_name="recognise", show_progress_on=shown)
    picture.upload(_told(recognise), [picture, k], [shown, metrics], api_visibility="private", show_progress_on=shown)


def _rendered(verdict: str, lines: Sequence[Line]) -> str:
    environment = Environment(loader=PackageLoader("eval.demo"), autoescape=True)
    pictures = [thumbnail(Path(line.example), 160) if line.example else None for line in lines]
    return environment.get_template("demo.html.j2").render(verdict=verdict, lines=list(zip(lines, pictures)))


def _classes_tab(demo: Demo, page: gr.Blocks) -> None:
    import gradio as gr

    def listed():
        rows = demo.classes()
        return rows, gr.Dropdown(choices=[name for name, _ in rows], value=None)

    def add(name: str, files: Sequence[str] | None):
        said = demo.add(name, files)
        return said, "", None, *listed()

    def remove(name: str | None):
        said = demo.remove(name)
        return said, *listed()

    with gr.Row():
        with gr.Column(min_width=280):
            gr.Markdown("### Add a class, or pictures to one")
            name = gr.Textbox(label="Name", max_lines=1)
            files = gr.File(
                label=f"Pictures (up to {MOST_PICTURES}, at most {demo.most_bytes / 1e6:g} MB each)",
                file_count="multiple", file_types=sorted(IMAGE_SUFFIXES), height=160,
            )  # fmt: skip
            _take_uploads_alone(files, page)
            files.preprocess = lambda dropped: dropped and [_uploaded(file.path, page) for file in dropped.root]
            adding = gr.Button("Add", variant="primary")
            said = gr.Textbox(label="Done", interactive=False)  # between both buttons, in sight of each on a phone
            gr.Markdown("### Remove a class")
            # Any value: another visitor may have removed the class, and demo.remove says so.
            chosen = gr.Dropdown(label="Class", choices=[], interactive=True, allow_custom_value=True)
            removing = gr.Button("Remove", variant="stop")
        with gr.Column(min_width=280):
            gr.Markdown("### Remembered")
            table = gr.Dataframe(
                headers=["class", "pictures"], show_label=False, interactive=False, wrap=True, buttons=[],
                show_search="search", column_widths=["65%", "35%"],
            )  # fmt: skip
    adding.click(_told(add), [name, files], [said, name, files, table, chosen], api_name="add", show_progress_on=said)
    removing.click(_told(remove), chosen, [said, table, chosen], api_name="remove", show_progress_on=said)
    page.load(listed, None, [table, chosen], api_name="classes")


def launch(page: gr.Blocks, host: str, port: int, most_bytes: float) -> str:
    """Serves a page from threads of this process.

    Args:
        page: What ``build_page`` made; ``page.close()`` ends it.
        host: Address to listen on.
        port: Its port.
        most_bytes: Limit of an upload.

    Returns:
        str: The page's address.

    Raises:
        UserError: The port is taken, or the address is not this machine's.
    """
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, max_file_size=int(most_bytes), share=False, ssr_mode=False, pwa=False,
            mcp_server=False, run_history=False, enable_monitoring=False, show_error=True, quiet=True,
            prevent_thread_lock=True, inbrowser=False, footer_links=["api", "settings"],
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: can't listen there ({error}); give another") from None
    return address


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(run: Path, classes: Path | None, settings: Sequence[str], host: str, port: int, most_mb: float) -> None:
    """Loads a run and serves its page until Ctrl-C.

    Args:
        run: A run's folder, or one of its checkpoints.
        classes: A folder with a folder of pictures per class; None for the run's own data set.
        settings: Changes to the run's recipe.
        host: Address to listen on.
        port: Its port.
        most_mb: Limit of a file, in megabytes.

    Raises:
        UserError: Gradio is missing, or a part of the run can't be had.
    """
    check(0 < port < 65536, f"--port {port}: must lie in 1..65535")
    check(most_mb > 0, f"--most-mb {most_mb}: must be above 0")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("eval.demo needs gradio; pip install 'rar-train[page]'")
    demo = Demo(Recognizer.from_pretrained(run, classes, *settings), most_mb * 1e6)
    if not _is_loopback(host):
        log.warning("demo: everyone who reaches %s can use this page and change its memory; it asks no password", host)
    with tempfile.TemporaryDirectory(prefix="rar-demo-") as uploads:
        # Before Gradio is imported: what is dropped goes with the command, and nothing is reported to anyone.
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False"}
        page = build_page(demo)
        log.info(
            "demo: %s with %d classes; Ctrl-C ends it", launch(page, host, port, most_mb * 1e6), len(demo.classes())
        )
        page.block_thread()
