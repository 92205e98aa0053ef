"""Command lines: options and settings in any order, and hints for words that are neither."""

from __future__ import annotations

import re

import pytest

from data_prep.arguments.parser import CommandParser
from data_prep.core.errors import UserError


def parser(checked: bool = True) -> CommandParser:
    made = CommandParser("eval.run")
    made.add_argument("--ckpt", required=True)
    made.add_argument("--split", choices=("test", "val"))
    made.add_argument("--shots", nargs="+")
    made.add_settings(checked=checked)
    return made


def test_settings_may_come_anywhere():
    args = parser().parse_args(["eval.k=3", "--ckpt", "runs/x", "seed=1", "--split", "val", "optim.lr=1"])
    assert (args.ckpt, args.split, args.settings) == ("runs/x", "val", ["eval.k=3", "seed=1", "optim.lr=1"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--learning_rate 1e-4", "--learning_rate: not an option; settings are written key=value: optim.lr=1e-4"),
        ("--lr=1e-4", "--lr: not an option; settings are written key=value: optim.lr=1e-4"),
        ("--optim.lr 1e-4", "--optim.lr: not an option; settings are written key=value: optim.lr=1e-4"),
        ("--per-device-train-batch-size 8", "key=value: optim.batch_size=8"),
        ("--bf16", "key=value: trainer.precision=VALUE (bf16-mixed, with ranker.dtype"),
        ("--recipe ranker_lora", "key=value: recipe=ranker_lora"),
        ("lr 1e-4", "lr: give settings as key=value: optim.lr=1e-4"),
        ("--checkpoint runs/x", "--checkpoint: unknown option; did you mean --ckpt?"),
        ("--ckp runs/x", "--ckp: unknown option; did you mean --ckpt?"),
        ("--qqqq", "--qqqq: unknown option; see python -m eval.run --help"),
        ("--split validation", "did you mean val?"),
        ("--split val --split", "expected one argument; see python -m eval.run --help"),
        ("eval.kk=3", "unknown key eval.kk; did you mean eval.k?"),
        ("optim.lr=fast", "optim.lr=fast: must be a number"),
    ],
)
def test_a_wrong_argument_says_how_to_write_it(arguments: str, expected: str):
    with pytest.raises(UserError, match=re.escape(expected)):
        parser().parse_args(["--ckpt", "runs/x", *arguments.split()])


def test_a_missing_option_is_named():
    with pytest.raises(UserError, match=re.escape("required: --ckpt; see python -m eval.run --help")):
        parser().parse_args(["seed=1"])


def test_settings_that_are_checked_later_are_only_collected():
    assert parser(checked=False).parse_args(["--ckpt", "x", "anything", "eval.kk=3"]).settings == [
        "anything",
        "eval.kk=3",
    ]
