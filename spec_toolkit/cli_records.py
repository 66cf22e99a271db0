"""The commands about records: `gpu`, `crosscheck` and `sanitize` make them on a GPU, `report` makes figures and a page of them."""
import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def add_gpu(commands) -> None:
    """`gpu --out results`: every sampler through the exactness suite on the GPU, then timed and recorded."""
    parser = commands.add_parser("gpu", help="check every sampler on the GPU, then time and record the experiments")
    _add_recording(parser)
    parser.add_argument("--experiments", nargs="+", metavar="NAME", help="names such as ladder grid (default: all)")
    parser.add_argument("--repeats", type=int, help="samples of each time (default: the experiment's own)")
    parser.add_argument("--level", default="thorough", choices=("few", "quick", "thorough"), help="of the exactness suite (default: thorough)")
    parser.add_argument("--resume", action="store_true", help="pass over problems that --out holds already, of these samplers as they are today")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="begin no new problem after that long")
    parser.set_defaults(action=gpu)


def gpu(args: argparse.Namespace) -> int:
    from . import recording

    return _recorded(args, lambda: recording.record_all(
        args.out, args.samplers, args.experiments, args.repeats, args.level, args.resume, args.stop_after))


def add_crosscheck(commands) -> None:
    """`crosscheck --out results`: the same calls by our clock and by triton.testing.do_bench, recorded."""
    parser = commands.add_parser("crosscheck", help="time the same calls by our clock and by triton's do_bench, and record both")
    _add_recording(parser)
    parser.set_defaults(action=crosscheck)


def crosscheck(args: argparse.Namespace) -> int:
    from . import crosscheck

    return _recorded(args, lambda: bool(crosscheck.record(args.out, args.samplers)))


def add_sanitize(commands) -> None:
    """`sanitize --out results`: every rung below compute-sanitizer's four tools, recorded."""
    parser = commands.add_parser("sanitize", help="run every rung below compute-sanitizer's four tools, and record what they find")
    _add_recording(parser)
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="stop a tool that takes longer (it is recorded as a fault)")
    parser.set_defaults(action=sanitize)


def sanitize(args: argparse.Namespace) -> int:
    from . import sanitize

    return _recorded(args, lambda: sanitize.record(args.out, args.samplers, args.limit))


def _add_recording(parser) -> None:
    parser.add_argument("--out", default="results", help="folder that receives the records (default: results)")
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help="names such as v1 python_loop (default: all that are compared)")
    parser.add_argument("--archive", metavar="FILE.tar.gz", help="pack all records of --out into this file at the end, whatever happened")


def _recorded(args: argparse.Namespace, work: Callable[[], bool]) -> int:
    """The exit code of work that needs a GPU, said in a line where it cannot be done; the archive in any case."""
    from . import bench, recording, results, sanitize

    try:
        return 0 if work() else 1
    except (bench.NeedsGPU, bench.UncheckedSampler, recording.UnknownName, sanitize.NoSanitizer) as error:
        print(f"spec-toolkit {args.action.__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, recording.UnknownName) else 1
    finally:
        if args.archive:
            print(f"{args.archive}: {results.archive(args.out, args.archive)} files", flush=True)


def add_report(commands) -> None:
    """`report`: every figure and one self-contained page from the records alone; needs no GPU."""
    parser = commands.add_parser("report", help="make every figure and one HTML page from the records; needs no GPU")
    parser.add_argument("--results", metavar="DIR", help="folder of the records (default: the committed ones)")
    parser.add_argument("--out", default="outputs/report", help="folder that receives index.html and figures/ (default: outputs/report)")
    parser.add_argument("--readme", action="store_true", help="in a checkout: rewrite the tables and figures of the README and of docs/ too")
    parser.set_defaults(action=report)


def report(args: argparse.Namespace) -> int:
    from . import paths

    if args.results and not Path(args.results).is_dir():
        print(f"spec-toolkit report: --results {args.results}: no such folder", file=sys.stderr)
        return 2
    if args.readme and not paths.checkout():
        print("spec-toolkit report: --readme: this copy is installed, not a checkout, and has no README to rewrite", file=sys.stderr)
        return 2
    try:
        from . import exactness, readme, report
        print(report.write(args.results, args.out))
    except ImportError as error:
        print(f"spec-toolkit report: {error.name} is missing; it comes with: pip install 'spec-toolkit[notebooks]'", file=sys.stderr)
        return 2
    return max(readme.main([]), exactness.main([])) if args.readme else 0
