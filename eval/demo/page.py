"""The demo page: a Gradio user interface for ``eval.demo.actions``."""

from __future__ import annotations

import functools
import html
import importlib.util
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader

from data_prep.core.errors import UserError
from data_prep.reading.finding import IMAGE_SUFFIXES
from data_prep.settings import check
from eval.demo.actions import Demo, upload_error
from eval.recognizer.class_lists import check_classes
from eval.recognizer.kept import choose_classes, lock_kept
from eval.recognizer.recognizer import Recognizer
from eval.recognizer.result import RankedCandidate
from eval.recognizer.uploads import MAX_IMAGES, is_loopback
from eval.report.thumbnails import thumbnail

if TYPE_CHECKING:
    import gradio as gr

log = logging.getLogger(__name__)

_TITLE = "Retrieve and rank"


def _show_errors(action: Callable) -> Callable:
    """Wraps an action so that the page shows its ``UserError`` instead of a traceback."""
    import gradio as gr

    @functools.wraps(action)
    def run(*args):
        try:
            return action(*args)
        except UserError as error:  # shown as HTML
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None

    return run


def _check_uploaded(path: str, page: gr.Blocks) -> str:
    """Checks that a path in a visitor's request is that of an upload to this page, and returns it.

    A program may send any path of this machine. The path of an upload contains a hash of the content and a secret of
    the server, so that only those who sent the content know it.

    Raises:
        gr.Error: It is not an upload; the message is the same whether or not there is such a file.
    """
    import gradio as gr

    if path not in page.upload_file_set:
        raise gr.Error(html.escape(upload_error(Path(path).name), quote=False), print_exception=False)
    return path


def _accept_only_uploads(field: gr.components.Component, page: gr.Blocks) -> None:
    """Keeps Gradio from fetching URLs, and copying files, that a request names, into the server's folder."""

    async def check_uploaded(path: str) -> str:
        return _check_uploaded(path, page)

    field.async_move_resource_to_block_cache = check_uploaded


def build_page(demo: Demo) -> gr.Blocks:
    """Builds the page; ``launch`` serves it."""
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

    def recognise(image: str | None, k: float):
        verdict, ranked = demo.recognise(image, int(k))
        ranking = [{key: value for key, value in asdict(row).items() if key != "example"} for row in ranked]
        return _render_result(verdict, ranked), {"verdict": verdict, "ranking": ranking}

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            image = gr.Image(
                label=f"Image (at most {demo.max_bytes / 1e6:g} MB)", type="filepath", image_mode=None,
                sources=["upload", "clipboard"], height=320, buttons=[],
            )  # fmt: skip
            _accept_only_uploads(image, page)
            # Gradio would open the file first and show a traceback for a non-image; Demo.recognise reports an error.
            image.preprocess = lambda dropped: dropped and dropped.path and _check_uploaded(dropped.path, page)
            default_k = min(demo.recognizer.choice.k, demo.recognizer.max_k)
            k = gr.Slider(1, demo.recognizer.max_k, default_k, step=1, label="Candidates")
            button = gr.Button("Recognise", variant="primary")
        with gr.Column(scale=3, min_width=280):
            result = gr.HTML(_render_result("Drop an image.", []))
    metrics = gr.JSON(visible=False)  # for programs that call the page
    button.click(_show_errors(recognise), [image, k], [result, metrics], api_name="recognise", show_progress_on=result)
    image.upload(
        _show_errors(recognise), [image, k], [result, metrics], api_visibility="private", show_progress_on=result
    )


def _render_result(verdict: str, ranked: Sequence[RankedCandidate]) -> str:
    environment = Environment(loader=PackageLoader("eval.demo"), autoescape=True)
    thumbnails = [thumbnail(Path(row.example), 160) if row.example else None for row in ranked]
    return environment.get_template("demo.html.j2").render(verdict=verdict, ranked=list(zip(ranked, thumbnails)))


def _classes_tab(demo: Demo, page: gr.Blocks) -> None:
    import gradio as gr

    def list_classes():
        rows = demo.classes()
        return rows, gr.Dropdown(choices=[name for name, _ in rows], value=None)

    def add(name: str, files: Sequence[str] | None):
        message = demo.add(name, files)
        return message, "", None, *list_classes()

    def remove(name: str | None):
        message = demo.remove(name)
        return message, *list_classes()

    with gr.Row():
        with gr.Column(min_width=280):
            gr.Markdown("### Add a class, or images to one")
            name = gr.Textbox(label="Name", max_lines=1)
            files = gr.File(
                label=f"Images (up to {MAX_IMAGES}, at most {demo.max_bytes / 1e6:g} MB each)",
                file_count="multiple", file_types=sorted(IMAGE_SUFFIXES), height=160,
            )  # fmt: skip
            _accept_only_uploads(files, page)
            files.preprocess = lambda dropped: dropped and [_check_uploaded(file.path, page) for file in dropped.root]
            add_button = gr.Button("Add", variant="primary")
            message = gr.Textbox(label="Done", interactive=False)  # between both buttons: visible from each on a phone
            gr.Markdown("### Remove a class")
            # Any value: another visitor may have removed the class, which demo.remove reports.
            selected = gr.Dropdown(label="Class", choices=[], interactive=True, allow_custom_value=True)
            remove_button = gr.Button("Remove", variant="stop")
        with gr.Column(min_width=280):
            gr.Markdown("### Memory")
            table = gr.Dataframe(
                headers=["class", "images"], show_label=False, interactive=False, wrap=True, buttons=[],
                show_search="search", column_widths=["65%", "35%"],
            )  # fmt: skip
    outputs = [message, name, files, table, selected]
    add_button.click(_show_errors(add), [name, files], outputs, api_name="add", show_progress_on=message)
    outputs = [message, table, selected]
    remove_button.click(_show_errors(remove), selected, outputs, api_name="remove", show_progress_on=message)
    page.load(list_classes, None, [table, selected], api_name="classes")


def launch(page: gr.Blocks, host: str, port: int, max_bytes: float) -> str:
    """Serves a page from threads of this process.

    Args:
        page: From ``build_page``; ``page.close()`` ends it.
        host: Address to listen on.
        port: Its port.
        max_bytes: Size limit of an upload.

    Returns:
        str: The page's address.

    Raises:
        UserError: The port is taken, or the address is not this machine's.
    """
    try:
        _, address, _ = page.launch(
            server_name=host, server_port=port, max_file_size=int(max_bytes), share=False, ssr_mode=False, pwa=False,
            mcp_server=False, run_history=False, enable_monitoring=False, show_error=True, quiet=True,
            prevent_thread_lock=True, inbrowser=False, footer_links=["api", "settings"],
        )  # fmt: skip
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: can't listen there ({error}); give another") from None
    return address


@dataclass(frozen=True)
class Options:
    """The command line.

    Attributes:
        ckpt: A run's folder, or one of its checkpoints.
        settings: Changes to the run's recipe.
        classes: A folder with a folder of images per class, or a kept memory; None for the run's own test split.
        keep: Folder where the memory is kept; None: changes are lost.
        host: Address to listen on.
        port: Its port.
        most_mb: Size limit of a file, in megabytes.
    """

    ckpt: Path
    settings: Sequence[str] = ()
    classes: Path | None = None
    keep: Path | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    most_mb: float = 10

    def __post_init__(self) -> None:
        check(0 < self.port < 65536, f"--port {self.port}: must be in 1..65535")
        check(self.most_mb > 0, f"--most-mb {self.most_mb}: must be above 0")


def serve(options: Options) -> None:
    """Loads a run and serves its page until Ctrl-C.

    Raises:
        UserError: Gradio is missing, another page or service keeps the same memory, or a part can't be loaded.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("eval.demo needs gradio; pip install 'rar-train[page]'")
    with lock_kept(options.keep), tempfile.TemporaryDirectory(prefix="rar-demo-") as uploads:
        classes = choose_classes(check_classes(options.classes), options.keep, "--keep")
        recognizer = Recognizer.from_pretrained(options.ckpt, classes, *options.settings)
        demo = Demo(recognizer, options.most_mb * 1e6, options.keep)
        if not is_loopback(options.host):
            log.warning(
                "demo: everyone who reaches %s can use this page and change its memory; there is no password",
                options.host,
            )
        # Before Gradio is imported: uploads are deleted when the command ends, and no usage is reported.
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False"}
        page = build_page(demo)
        address = launch(page, options.host, options.port, demo.max_bytes)
        log.info("demo: %s with %d classes; Ctrl-C ends it", address, len(demo.classes()))
        page.block_thread()
