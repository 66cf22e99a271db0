"""The command line. A command is one function that adds its parser and names its action; COMMANDS lists them."""
import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


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


def add_doctor(commands) -> None:
    """`doctor`: what is installed, what works, and the command that mends each failure."""
    parser = commands.add_parser("doctor", help="what is installed here, what works, and what mends each failure; exit code 1 if something fails")
    parser.set_defaults(action=doctor)


def doctor(args: argparse.Namespace) -> int:
    from . import doctor

    findings = []
    for name, probe in doctor.PROBES.items():
        findings.append(doctor.asked(name, probe))
        print(findings[-1], flush=True)
    print("\n" + doctor.summary(findings))
    return 1 if any(finding.state == doctor.FAILED for finding in findings) else 0


def add_check(commands) -> None:
    """`check v5`, `check --source my.cu`, `check --peer flashinfer`: the whole report of exactness."""
    parser = commands.add_parser("check", help="is a sampler exact? tokens, law, edges and poison; exit code 0 or 1 (2: a wrong request)")
    _add_samplers(parser)
    parser.add_argument("--draws", type=int, help="requests of each law (default: the level's)")
    parser.add_argument("--rebatchings", type=int, help="random batches that a request is moved to (default: the level's)")
    parser.add_argument("--level", default="quick", choices=("few", "quick", "thorough"), help="how much is tried (default: quick)")
    parser.add_argument("--json", metavar="FILE", help="write environment and reports there")
    parser.set_defaults(action=check)


def check(args: argparse.Namespace) -> int:
    from . import checking

    words = {name: value for name, value in vars(args).items() if name != "action"}
    return _answered("check", lambda: checking.run(**words), checking.WrongRequest)


def add_fuzz(commands) -> None:
    """`fuzz v5 --minutes 5`: random problems; a counter-example is printed as one line."""
    parser = commands.add_parser("fuzz", help="check a sampler on random problems; the smallest that fails is printed as one line")
    _add_samplers(parser)
    parser.add_argument("--examples", type=int, default=200, help="how many problems (default: 200)")
    parser.add_argument("--minutes", type=float, help="go on for so long instead")
    parser.set_defaults(action=fuzz)


def fuzz(args: argparse.Namespace) -> int:
    from . import checking

    words = {name: value for name, value in vars(args).items() if name != "action"}
    return _answered("fuzz", lambda: checking.run_fuzz(**words), checking.WrongRequest)


def add_llm(commands) -> None:
    """`llm --target NAME --draft NAME`: a language model decoded plainly and with speculation, side by side."""
    parser = commands.add_parser("llm", help="decode with a language model, plainly and with speculation: tokens/s, acceptance, time split")
    parser.add_argument("--target", default="smollm2", metavar="NAME", help="a model on the hub, a folder, or smollm2 (the default), which needs no hub")
    parser.add_argument("--draft", metavar="NAME",
                        help="another model of the same tokenizer, or ngram: from the text itself (default: ngram, then smollm2-draft where it is)")
    parser.add_argument("--sampler", metavar="NAME", help="v10, v5, torch_vectorised, python_loop, ... (default: v10 on a GPU, else torch_vectorised)")
    parser.add_argument("--path", choices=("graph", "eager"), help="static caches and CUDA graphs, or call by call (default: graph on a GPU, else eager)")
    parser.add_argument("--draft-len", type=int, default=4, metavar="K", help="drafts of a step (default: 4)")
    parser.add_argument("--tokens", type=int, default=48, help="new tokens of a prompt, at most (default: 48)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each prompt (default: 3)")
    parser.add_argument("--batch", type=int, default=1, help="prompts at a time (default: 1)")
    parser.add_argument("--prompt", action="append", dest="prompts", metavar="TEXT", help="a prompt of your own; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the others follow from it (default: 0)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the models (default: float32 on a CPU, bfloat16 on a GPU)")
    parser.set_defaults(action=llm)


def llm(args: argparse.Namespace) -> int:
    from . import llm_command, pretrained

    words = {name: value for name, value in vars(args).items() if name != "action"}
    return _answered("llm", lambda: llm_command.run(**words), (pretrained.ModelError, ValueError))


def add_llm_bench(commands) -> None:
    """`llm-bench --out results`: a pair of models decoded in several ways, cell by cell, recorded."""
    parser = commands.add_parser("llm-bench", help="decode with a pair of models in several ways over many prompts and seeds, and record it")
    parser.add_argument("--target", default="smollm2", metavar="NAME", help="as for llm (default: smollm2)")
    parser.add_argument("--draft", default="smollm2-draft", metavar="NAME", help="another model of the same tokenizer, or ngram (default: smollm2-draft)")
    parser.add_argument("--sampler", metavar="NAME", help="the one that is measured (default: v10 on a GPU, else torch_vectorised)")
    parser.add_argument("--paths", nargs="+", default=["eager", "graph"], choices=("eager", "graph"), help="default: both")
    parser.add_argument("--kinds", nargs="+", default=["compare", "samplers", "k_sweep"], choices=("compare", "samplers", "k_sweep"), help="default: all")
    parser.add_argument("--draft-len", type=int, default=4, metavar="K", help="drafts of a step, but for k_sweep (default: 4)")
    parser.add_argument("--prompts", type=int, default=24, help="how many of the prompts of llm_prompts.py (default: 24, all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each prompt in the main cells (default: 3)")
    parser.add_argument("--eager-tokens", type=int, default=16, help="new tokens of a run on the eager path (default: 16)")
    parser.add_argument("--graph-tokens", type=int, default=96, help="new tokens of a run on the graph path (default: 96)")
    parser.add_argument("--fused", nargs="+", default=["both", "draft"], choices=("both", "draft", "none"),
                        help="whose forward the graph path takes from this package, in cells of their own (default: both and draft)")
    parser.add_argument("--batches", nargs="+", type=int, metavar="B", help="only cells of these batches, 1 and 8 (default: all)")
    parser.add_argument("--temperatures", nargs="+", type=float, metavar="T", help="only cells of these temperatures, 0, 0.7 and 1 (default: all)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="of the models (default: float32 on a CPU, bfloat16 on a GPU)")
    parser.add_argument("--out", default="results", help="folder that receives the records (default: results)")
    parser.add_argument("--resume", action="store_true", help="pass over cells that --out holds already, of these models and samplers as they are today")
    parser.add_argument("--stop-after", type=float, metavar="SECONDS", help="begin no new cell after that long")
    parser.add_argument("--archive", metavar="FILE.tar.gz", help="pack all records of --out into this file at the end, whatever happened")
    parser.set_defaults(action=llm_bench)


def llm_bench(args: argparse.Namespace) -> int:
    from . import llm_command, pretrained, results

    words = {name: value for name, value in vars(args).items() if name not in ("action", "archive")}
    try:
        return _answered("llm-bench", lambda: llm_command.bench(**words), (pretrained.ModelError, ValueError))
    finally:
        if args.archive:
            print(f"{args.archive}: {results.archive(args.out, args.archive)} files", flush=True)


def add_distill(commands) -> None:
    """`distill --out FOLDER --seconds 420`: a draft of the target's first layers, trained on the target's own texts."""
    parser = commands.add_parser("distill", help="train a draft: the target's first three layers, on the target's own texts; minutes on a GPU")
    parser.add_argument("--target", default="smollm2", metavar="NAME", help="smollm2 (the default), or a folder with a Llama, its .gguf or its weights")
    parser.add_argument("--out", default="outputs/draft", help="folder that receives weights and provenance.json (default: outputs/draft)")
    parser.add_argument("--seconds", type=float, default=420.0, help="of the whole command; the learning rate follows the clock (default: 420)")
    parser.add_argument("--device", help="cpu (small, to see that it works) or cuda (default: a GPU where there is one)")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), help="of the matrices (default: muon)")
    parser.add_argument("--learning-rate", type=float, metavar="RATE", help="its highest value (default: 0.01 for muon, 0.002 for adamw)")
    parser.add_argument("--batch", type=int, help="texts that each GPU samples at a time (default: 4096, which is 24 GB of keys and values)")
    parser.add_argument("--length", type=int, help="tokens of a text (default: 256 on a GPU)")
    parser.add_argument("--rows", type=int, help="texts of a step on each GPU (default: 96)")
    parser.add_argument("--depth", type=int, metavar="D", help="drafts of a step that are learned from (default: 3)")
    parser.add_argument("--features", action=argparse.BooleanOptionalAction, default=True, help="take the target's hidden states (default: yes)")
    parser.add_argument("--steps", type=int, help="stop after so many, which then drive the learning rate too")
    parser.add_argument("--seed", type=int, default=0, help="of texts and order (default: 0)")
    parser.add_argument("--start", metavar="FOLDER", help="go on from a draft that was trained before (give another --seed, for other texts)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="that train together, one a GPU of this machine (default: 1)")
    parser.set_defaults(action=distill)


def distill(args: argparse.Namespace) -> int:
    from . import distill_command, pretrained

    words = {name: value for name, value in vars(args).items() if name != "action"}
    return _answered("distill", lambda: distill_command.run(**words), (pretrained.ModelError, ValueError))


def _add_samplers(parser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="v5, torch_vectorised, softmax+v5, flashinfer_chain, ...")
    parser.add_argument("--source", metavar="FILE", help="a kernel of your own (.cu, with its contract)")
    parser.add_argument("--peer", action="append", default=[], dest="peers", metavar="NAME", help="another library's sampler; may be repeated")
    parser.add_argument("--kind", choices=("probs", "logits"), help="of the problems (default: what the sampler takes)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--seed", type=int, default=0, help="another seed: other problems and draws of the same kind (default: 0)")


def _answered(name, work: Callable[[], int], wrong: type[Exception] | tuple[type[Exception], ...]) -> int:
    try:
        return work()
    except wrong as error:
        print(f"spec-toolkit {name}: {error}", file=sys.stderr)
        return 2


COMMANDS: list[Callable] = [add_run, add_sweep, add_report, add_doctor, add_gpu, add_crosscheck, add_sanitize, add_check, add_fuzz, add_llm, add_llm_bench, add_distill]


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
