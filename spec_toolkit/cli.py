"""The command line. A command is one function that adds its parser and names its action; COMMANDS lists them."""
import argparse
import sys
from collections.abc import Callable, Sequence


def add_run(commands) -> None:
    """`run NAME -p key value`: a notebook through papermill; without a name, the notebooks and their parameters."""
    parser = commands.add_parser("run", help="run a notebook with parameters; without a name, list the notebooks")
    parser.add_argument("name", nargs="?", help="quick_demo for notebooks/01_quick_demo.ipynb, or a path")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"),
                        help="set one parameter (a Python literal); may be repeated")
    parser.add_argument("--out", default="outputs", help="folder that receives a new folder per run (default: outputs)")
    parser.add_argument("--timeout", type=float, help="seconds that one cell may take (default: no limit)")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> int:
    from . import runs

    try:
        if args.name is None:
            print(runs.describe_notebooks())
        else:
            print(runs.run_notebook(args.name, dict(args.parameter), out=args.out, timeout=args.timeout))
    except runs.RunError as error:
        print(f"spec-toolkit run: {error}", file=sys.stderr)
        return error.code
    return 0


COMMANDS: list[Callable] = [add_run]


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
