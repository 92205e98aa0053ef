"""References and entry points: what is found, what is refused in one line, and that nothing of ours is hidden."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.core.errors import UserError
from data_prep.extensions.finding import DATASETS, find_references, is_reference, load_extension, locate
from tests.commands import environment
from tests.extending_page import install

ROOT = Path(__file__).resolve().parents[3]
identifiers = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
references = st.builds(
    lambda module, function: f"{'.'.join(module)}:{'.'.join(function)}",
    st.lists(identifiers, min_size=1, max_size=3),
    st.lists(identifiers, min_size=1, max_size=2),
)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def message_of(reference: str) -> str:
    with pytest.raises(UserError) as caught:
        load_extension("data.name", reference, DATASETS)
    return str(caught.value)


@given(st.lists(references, max_size=4))
def test_every_reference_in_a_list_is_found(listed: list[str]):
    assert all(map(is_reference, listed))
    assert find_references(" ".join(listed)) == find_references(f"[{','.join(listed)}]") == listed


@pytest.mark.parametrize(
    "text", ["nano-clip", "local-dir:models", "hf-hub:timm/vit", "hf-hub:timm", "/a/b:c", "http://host", "folder", ""]
)
def test_names_of_models_and_paths_are_no_references(text: str):
    assert not is_reference(text) and not find_references(text)
    assert load_extension("retriever.model", text, DATASETS) is None


@pytest.mark.parametrize(
    ("code", "reference", "message"),
    [
        ("", "absent_module:read", "data.name=absent_module:read: there is no module absent_module, neither installed"),
        ("def read(): ...", "mine_a.deeper:read", "there is no module mine_a.deeper"),
        ("def read(): ...", "mine_b:reed", "mine_b.py has no reed"),
        ("read = 3", "mine_c:read", "read in .*mine_c.py is int, not a function"),
        ("def read(:", "mine_d:read", "importing mine_d failed: SyntaxError"),
        ("import absent_module", "mine_e:read", "importing mine_e failed: No module named 'absent_module'"),
        ("\n1 / 0", "mine_f:read", "importing mine_f failed: ZeroDivisionError: division by zero .*mine_f.py, line 2"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(code, reference, message, tmp_path):
    (tmp_path / f"{reference.partition(':')[0].partition('.')[0]}.py").write_text(code)
    if reference.startswith("absent"):
        (tmp_path / "absent_module.py").unlink()
    text = message_of(reference)
    assert "\n" not in text
    with pytest.raises(UserError, match=message):
        raise UserError(text)


def test_modules_packages_and_folders_of_the_working_folder_are_found(tmp_path):
    for path, body in {
        "single.py": "from sibling import read",
        "sibling.py": "def read(): return 'single'",
        "plain_folder/inner.py": "def read(): return 'folder'",
        "package/__init__.py": "class Readers:\n    @staticmethod\n    def read(): return 'package'",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(body)
    found = [load_extension("data.name", r, DATASETS) for r in ("single:read", "plain_folder.inner:read")]
    assert [function() for function in found] == ["single", "folder"]
    assert load_extension("data.name", "package:Readers.read", DATASETS)() == "package"


def test_a_module_is_located_without_being_run(tmp_path):
    (tmp_path / "bomb.py").write_text("raise SystemExit('it was run')")
    assert locate("bomb:read") == str(tmp_path / "bomb.py")
    assert locate("bomb.inner:read") == str(tmp_path / "bomb.py")
    assert locate("nowhere_at_all:read") is None


def test_a_console_script_finds_the_working_folder_last_so_that_nothing_there_hides_our_packages(tmp_path):
    """A script's first path is its own folder, not the working folder, which has an ``eval`` of the user's."""
    (tmp_path / "work" / "eval").mkdir(parents=True)
    (tmp_path / "work" / "eval" / "__init__.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "work" / "peft").mkdir()  # a folder of photographs that is called like a library
    (tmp_path / "work" / "mine_g.py").write_text("import eval\ndef read(): return eval.__file__")
    script = tmp_path / "bin" / "script.py"
    script.parent.mkdir()
    script.write_text(
        "from data_prep.extensions.finding import load_extension\n"
        "import importlib.util, sys\n"
        "print(load_extension('data.name', 'mine_g:read', 'rar_train.datasets')())\n"
        "print(importlib.util.find_spec('peft').origin)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path / "work",
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ours, library = done.stdout.splitlines()
    assert ours == str(ROOT / "eval" / "__init__.py") and "site-packages" in library


def test_a_name_that_two_packages_declare_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for package in ("one", "two"):
        install(tmp_path, DATASETS, "birds", f"{package}:read", package)
    packages = "one (one:read), two (two:read)"
    assert f"several installed packages have an entry point of that name: {packages}" in message_of("birds")
