"""The command line. A command is one function that adds its parser and names its action; COMMANDS lists them.

They are in cli_*.py, by what they are about, and import what they need when they run: `--help` loads neither PyTorch nor CuPy.
"""
import argparse
import sys
from collections.abc import Callable, Sequence

from . import cli_checks, cli_llm, cli_notebooks, cli_records

COMMANDS: list[Callable] = [
    cli_notebooks.add_run, cli_notebooks.add_sweep, cli_records.add_report, cli_checks.add_doctor,
    cli_records.add_gpu, cli_records.add_crosscheck, cli_records.add_sanitize, cli_checks.add_check, cli_checks.add_fuzz,
    cli_llm.add_llm, cli_llm.add_llm_bench, cli_llm.add_distill]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spec-toolkit", description="The rejection-sampling step of speculative decoding.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, 1 if the work failed, 2 if the request was wrong."""
    args = build_parser().parse_args(argv)
    return args.action(args)


if __name__ == "__main__":
    sys.exit(main())
