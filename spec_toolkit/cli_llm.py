"""The commands that need a language model: `llm` decodes with a pair of models, `llm-bench` times them, `distill` trains a draft."""
import argparse

from .cli_errors import answered


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
    return answered("llm", lambda: llm_command.run(**words), (pretrained.ModelError, ValueError))


def add_llm_bench(commands) -> None:
    """`llm-bench --out results`: a pair of models decoded in several ways, cell by cell, recorded."""
    parser = commands.add_parser("llm-bench", help="decode with a pair of models in several ways over many prompts and seeds, and record it")
    parser.add_argument("--target", default="smollm2", metavar="NAME", help="as for llm (default: smollm2)")
    parser.add_argument("--draft", default="smollm2-draft", metavar="NAME", help="another model of the same tokenizer, or ngram (default: smollm2-draft)")
    parser.add_argument("--sampler", metavar="NAME", help="the one that is measured (default: v10 on a GPU, else torch_vectorised)")
    parser.add_argument("--paths", nargs="+", default=["eager", "graph"], choices=("eager", "graph"), help="default: both")
    parser.add_argument("--kinds", nargs="+", default=["compare", "samplers", "k_sweep"], choices=("compare", "samplers", "k_sweep"), help="default: all")
    parser.add_argument("--draft-len", type=int, metavar="K",
                        help="drafts of a step, but for k_sweep (default: what was best with each forward: 3 for both, 5 for draft, else 4)")
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
        return answered("llm-bench", lambda: llm_command.bench(**words), (pretrained.ModelError, ValueError))
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
    return answered("distill", lambda: distill_command.run(**words), (pretrained.ModelError, ValueError))
