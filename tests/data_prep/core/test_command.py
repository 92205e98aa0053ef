"""Output of a command: help, errors without traceback, and the exit status."""

import subprocess
import sys


def run(body: str, *arguments: str) -> subprocess.CompletedProcess:
    program = (
        "import sys\nfrom data_prep.core.command import run_command\nfrom data_prep.core.errors import UserError\n"
        f"def main(arguments):\n    {body}\nsys.exit(run_command(main, '\\n  How to launch.\\n'))"
    )
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def test_main_receives_the_arguments_and_the_exit_status_is_zero():
    result = run("print(arguments)", "recipe=x", "a=1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "['recipe=x', 'a=1']\n", "")


def test_a_user_error_is_one_line_without_traceback():
    result = run("raise UserError('mining.k=1: too small')")
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "error: mining.k=1: too small\n")


def test_any_other_error_is_two_lines_and_shows_a_traceback_only_with_debug():
    result = run("raise KeyError('bug')")
    assert result.returncode == 1
    assert result.stderr == "unexpected error: KeyError: 'bug'\nRun it again with --debug to see the traceback.\n"
    for body in ("raise KeyError('bug')", "raise UserError('bug')"):
        traced = run(body, "recipe=x", "--debug")
        assert traced.returncode == 1
        assert "Traceback" in traced.stderr and "bug" in traced.stderr


def test_the_debug_flag_is_not_passed_to_main():
    assert run("print(arguments)", "--debug", "recipe=x").stdout == "['recipe=x']\n"


def test_ctrl_c_says_how_to_continue():
    result = run("raise KeyboardInterrupt")
    assert result.returncode == 130
    assert "the same command resumes" in result.stderr and "Traceback" not in result.stderr


def test_help_is_shown_without_running():
    for flag in ("--help", "-h"):
        result = run("print('ran')", "recipe=x", flag)
        assert (result.returncode, result.stdout) == (0, "How to launch.\n")


def test_operating_system_errors_are_one_line_that_names_the_path(tmp_path):
    (tmp_path / "file").write_text("x")
    result = run(f"open({str(tmp_path / 'file' / 'x')!r}, 'w')")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'file' / 'x'}: a part of this path is a file")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)); "
    body = limit + "from data_prep.core.files import write_text; "
    result = run(body + f"from pathlib import Path; write_text(Path({str(tmp_path / 'a.txt')!r}), 'x' * 99)")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path / 'a.txt'}: larger than a file may be here")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_unwritable_output_is_an_error_but_a_closed_pipe_is_not():
    command = f'{sys.executable} -c "import sys; from data_prep.core.command import run_command; '
    command += "sys.exit(run_command(lambda arguments: print('x'), 'help'))\""
    result = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("error: a file, or the printed output: the disk is full")
    result = subprocess.run(f"(sleep 3; {command}) | true", shell=True, capture_output=True, text=True, check=False)
    assert result.stderr == ""


def test_an_ascii_terminal_shows_other_characters_as_escapes(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    result = run("print('Löwchen ± 1')")
    assert (result.returncode, result.stdout) == (0, "L\\xf6wchen \\xb1 1\n")


def test_an_undecodable_argument_is_an_error_that_shows_it():
    result = run("print('ran')", b"out=a\xff")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: out=a\\udcff: not UTF-8; rename it, or link to it by another name\n"
