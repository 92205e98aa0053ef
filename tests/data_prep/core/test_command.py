"""What a command shows its user: help, an error without traceback, and the exit status."""

import subprocess
import sys

import pytest

from data_prep.core.command import run_command


def run(body: str, *arguments: str) -> subprocess.CompletedProcess:
    program = (
        "import sys\nfrom data_prep.core.command import run_command\nfrom data_prep.core.errors import UserError\n"
        f"def main(arguments):\n    {body}\nsys.exit(run_command(main, '\\n  How to launch.\\n'))"
    )
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def test_main_gets_the_arguments_and_the_status_is_zero():
    ended = run("print(arguments)", "recipe=x", "a=1")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "['recipe=x', 'a=1']\n", "")


def test_a_users_error_is_one_line_without_traceback():
    ended = run("raise UserError('mining.k=1: too small')")
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "error: mining.k=1: too small\n")


def test_any_other_error_is_told_in_two_lines_and_where_only_when_asked():
    ended = run("raise KeyError('bug')")
    assert ended.returncode == 1
    assert ended.stderr == "unexpected error: KeyError: 'bug'\nRun it again with --debug to see where.\n"
    for body in ("raise KeyError('bug')", "raise UserError('bug')"):
        traced = run(body, "recipe=x", "--debug")
        assert traced.returncode == 1
        assert "Traceback" in traced.stderr and "bug" in traced.stderr


@pytest.mark.parametrize("rank", ["RANK", "SLURM_PROCID"])
def test_a_command_that_starts_its_own_processes_works_once_under_a_launcher(rank, monkeypatch, capsys):
    said = []
    monkeypatch.setattr("data_prep.core.command.quiet_libraries", lambda: None)
    monkeypatch.setattr(sys, "argv", ["command", "recipe=x"])
    for number in ("0", "1"):
        monkeypatch.setenv(rank, number)
        assert run_command(said.append, "help", alone=True) == 0
    assert said == [["recipe=x"]]
    assert "the first process does the work" in capsys.readouterr().err


def test_debug_is_not_passed_on():
    assert run("print(arguments)", "--debug", "recipe=x").stdout == "['recipe=x']\n"


def test_ctrl_c_says_how_to_go_on():
    ended = run("raise KeyboardInterrupt")
    assert ended.returncode == 130
    assert "goes on" in ended.stderr and "Traceback" not in ended.stderr


def test_help_is_shown_without_running():
    for flag in ("--help", "-h"):
        ended = run("print('ran')", "recipe=x", flag)
        assert (ended.returncode, ended.stdout) == (0, "How to launch.\n")


def test_a_full_disk_and_its_like_end_in_a_line_that_names_the_path(tmp_path):
    (tmp_path / "file").write_text("x")
    ended = run(f"open({str(tmp_path / 'file' / 'x')!r}, 'w')")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {tmp_path / 'file' / 'x'}: a part of this path is a file")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)); "
    body = limit + "from data_prep.core.files import write_text; "
    ended = run(body + f"from pathlib import Path; write_text(Path({str(tmp_path / 'a.txt')!r}), 'x' * 99)")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {tmp_path / 'a.txt'}: larger than a file may be here")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_output_that_can_not_be_written_is_an_error_and_output_that_nobody_reads_is_none():
    command = f'{sys.executable} -c "import sys; from data_prep.core.command import run_command; '
    command += "sys.exit(run_command(lambda arguments: print('x'), 'help'))\""
    ended = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("error: a file, or what is printed: the disk is full")
    ended = subprocess.run(f"(sleep 3; {command}) | true", shell=True, capture_output=True, text=True, check=False)
    assert ended.stderr == ""


def test_a_terminal_that_takes_ascii_alone_shows_the_rest_as_escapes(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ended = run("print('Löwchen ± 1')")
    assert (ended.returncode, ended.stdout) == (0, "L\\xf6wchen \\xb1 1\n")


def test_an_argument_that_is_not_text_is_named():
    ended = run("print('ran')", b"out=a\xff")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: out=a\\udcff: not UTF-8; rename it, or link to it by another name\n"
