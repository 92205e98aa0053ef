"""What a command shows its user: help, an error without traceback, and the exit status."""

import subprocess
import sys

import pytest

from data_prep.command import run_command


def run(body: str, *arguments: str) -> subprocess.CompletedProcess:
    program = (
        "import sys\nfrom data_prep.command import run_command\nfrom data_prep.errors import UserError\n"
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
    monkeypatch.setattr("data_prep.command.quiet_libraries", lambda: None)
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
