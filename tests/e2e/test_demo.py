"""The demo, started and stopped as a user does."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.commands import command_line, environment


@pytest.mark.slow
def test_the_demo_serves_the_users_classes_until_ctrl_c(run_command, small, shared_cache, tmp_path):
    client = pytest.importorskip("gradio_client", reason="needs the extra page")
    run_command("rar_train.fit", "recipe=ranker_lora", "out=run", f"cache={shared_cache}", *small)
    class_folders = sorted({path.parent for path in shared_cache.glob("armory-val-*/*/*.png")})
    for name, folder in zip(("one", "two", "three"), class_folders, strict=False):
        shutil.copytree(folder, tmp_path / "own" / name)
    command = command_line("eval.demo", "--ckpt", "run", "--classes", "own", "--port", "7862")
    before = set(Path(tempfile.gettempdir()).glob("rar-demo-*"))
    demo = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        address = next(line for line in demo.stderr if "Ctrl-C ends it" in line).split("demo: ")[1].split()[0]
        page = client.Client(address, verbose=False)
        image = client.handle_file(str(next((tmp_path / "own" / "two").glob("*.png"))))
        _, metrics = page.predict(image, 5, api_name="/recognise")
        assert {line["name"] for line in metrics["ranking"]} == {"one", "two", "three"}
        assert set(Path(tempfile.gettempdir()).glob("rar-demo-*")) > before
    finally:
        demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 0
    assert set(Path(tempfile.gettempdir()).glob("rar-demo-*")) == before  # uploads are deleted
