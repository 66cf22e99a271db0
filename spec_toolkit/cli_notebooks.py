"""The commands that run notebooks through papermill: `run` for one of them, `sweep` for grids of parameters."""
import argparse
import sys


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
    from . import notebooks, runs

    try:
        if args.name is None:
            print(notebooks.describe_notebooks())
        else:
            print(runs.run_notebook(args.name, dict(args.parameter), out=args.out, timeout=args.timeout))
    except runs.RunError as error:
        print(f"spec-toolkit run: {error}", file=sys.stderr)
        return error.code
    return 0


def add_sweep(commands) -> None:
    """`sweep FILE --jobs N`: notebooks x parameter grids through papermill; started again, it goes on where it stopped."""
    parser = commands.add_parser("sweep", help="run notebooks over grids of parameters; a sweep that was stopped goes on where it stopped")
    parser.add_argument("file", help="a YAML file such as sweeps/quick.yaml")
    parser.add_argument("--out", help="folder that receives a record and a folder per task (default: outputs/sweeps/<name of the file>)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="tasks at a time (default: 1; on one GPU times need 1)")
    parser.add_argument("--dry-run", action="store_true", help="list the tasks and which are finished, run nothing")
    parser.set_defaults(action=sweep)


def sweep(args: argparse.Namespace) -> int:
    from . import runs, sweeping
    from .sweep import is_finished, load_tasks, read_sweep

    try:
        plan = read_sweep(args.file)
        out = args.out or f"outputs/sweeps/{plan.name}"
        if args.dry_run:
            held = load_tasks(out)
            print(*(f"{'finished' if is_finished(task, held) else 'to run':9}{task}" for task in plan.tasks), sep="\n")
            return 0
        result = sweeping.run_sweep(plan, out, args.jobs)
    except runs.RunError as error:
        print(f"spec-toolkit sweep: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:  # before the first task or behind the last one; between them run_sweep returns
        print("spec-toolkit sweep: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(result, f"the records: {out}" + ("; the same command goes on from here" if result.stopped or result.failed else ""), sep="\n")
    return 130 if result.stopped else 1 if result.failed else 0
