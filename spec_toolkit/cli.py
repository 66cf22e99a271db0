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


def add_gpu(commands) -> None:
    """`gpu --out results`: every sampler through the exactness suite on the GPU, then timed and recorded."""
    parser = commands.add_parser("gpu", help="check every sampler on the GPU, then time and record the experiments")
    parser.add_argument("--out", default="results", help="folder that receives the records (default: results)")
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help="names such as v1 python_loop (default: all)")
    parser.add_argument("--experiments", nargs="+", metavar="NAME", help="names such as quick_demo (default: all)")
    parser.add_argument("--repeats", type=int, default=200, help="samples of each time (default: 200)")
    parser.add_argument("--level", default="thorough", choices=("few", "quick", "thorough"), help="of the exactness suite (default: thorough)")
    parser.set_defaults(action=gpu)


def gpu(args: argparse.Namespace) -> int:
    from . import bench, recording

    try:
        return 0 if recording.record_all(args.out, args.samplers, args.experiments, args.repeats, args.level) else 1
    except (bench.NeedsGPU, recording.UnknownName) as error:
        print(f"spec-toolkit gpu: {error}", file=sys.stderr)
        return 1 if isinstance(error, bench.NeedsGPU) else 2


COMMANDS: list[Callable] = [add_run, add_gpu]


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
