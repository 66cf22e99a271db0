"""`spec-toolkit llm-bench`: decode with a pair of models in several ways, cell by cell (llm_bench_cells.py), one record each.

    pair = load_pair("smollm2", "smollm2-draft", device="cuda")
    record_all(pair, cells("v9"), "results")

Every prompt is decoded by all arms of a cell in turn, before the next: what slows the machine down for a while slows all. A sampler
is checked on rows of this vocabulary and dtype before its arm is timed. An arm that fails is left out with its reason, a cell that
fails is recorded as failed, and neither stops the rest. Apart from the times, an untimed pass looks at the rows that are met.
"""
from __future__ import annotations

import gc
import hashlib
import time
import traceback
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import torch

from . import draft_weights, llm_bench_records, pretrained, results
from .assisted import Assisted
from .check import check
from .drafting import NgramDrafter
from .llm import Decoder
from .llm_bench_cells import Arm, Cell, cells
from .llm_bench_probe import Probe, parting
from .llm_bench_records import FORMAT, PARTS
from .llm_prompts import PROMPTS
from .loop_law import moved, one_thread, tiny_model
from .synthetic import make_problem
from .verifier import loop_sampler, row_dtype

NGRAM = "ngram"


@dataclass
class Pair:
    """Target and draft (None: n-grams), prompts as lists of ids, the ids that end a text, and what the records say of them."""
    target: torch.nn.Module
    draft: torch.nn.Module | None
    prompts: list[list[int]]
    stop: set[int] = field(default_factory=set)
    names: dict = field(default_factory=dict)

    @property
    def vocab(self) -> int:
        return self.target.get_output_embeddings().weight.shape[0]


def load_pair(target: str, draft: str, device="cpu", dtype=None, prompts=PROMPTS) -> Pair:
    """Models by name (pretrained.py). pretrained.ModelError if one cannot be had, or does not share the tokenizer."""
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    model, tokenizer = pretrained.load(target, dtype, device)
    drafter = None
    if draft != NGRAM:
        drafter, draft_tokenizer = pretrained.load(draft, dtype, device, target=(model, tokenizer))
        pretrained.require_shared_ids(tokenizer, draft_tokenizer)
    pair = make_pair(model, drafter, [pretrained.encode(tokenizer, text) for text in prompts], pretrained.stop_ids(model, tokenizer), target, draft)
    pair.names["draft_provenance"] = _provenance(draft)
    return pair


def _provenance(draft: str) -> dict | None:
    """What the folder of a trained draft says of how it came to be; None for another model."""
    folder = draft_weights.FOLDER if draft == pretrained.SMOLLM2_DRAFT else Path(draft)
    return draft_weights.provenance_of(folder) if (folder / draft_weights.PROVENANCE).is_file() else None


def make_pair(target, draft, prompts, stop=(), target_name="target", draft_name="draft") -> Pair:
    """A pair of models that are there; its names hold sizes and hashes of the weights, so that a record says what it is of."""
    names = {"target": target_name, "draft": draft_name, "dtype": str(target.dtype).removeprefix("torch."),
             "target_parameters": _parameters(target), "draft_parameters": draft and _parameters(draft),
             "draft_own_parameters": draft and _parameters(draft, besides=target),
             "target_hash": weights_hash(target), "draft_hash": draft and weights_hash(draft), "vocab": target.get_output_embeddings().weight.shape[0],
             "prompts_hash": hashlib.sha256(repr(prompts).encode()).hexdigest()[:12]}
    return Pair(target, draft, prompts, set(stop), names)


def _parameters(model, besides=None) -> int:
    """Numbers in the weights; `besides`: a model whose weights do not count, where they are shared."""
    shared = {id(weight) for weight in besides.parameters()} if besides else set()
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in shared)


def weights_hash(model) -> str:
    """Twelve digits of the weights, by name and value."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


# ---- one arm -------------------------------------------------------------------------------------------------------------

def make_method(pair: Pair, cell: Cell, arm: Arm, sampler=None):
    """A function (prompts, **options) -> Decoded or AssistedRun. sampler: in place of the arm's own."""
    if arm.method == "assisted":
        if pair.draft is None:
            raise ValueError("assisted: got n-grams, accepted: a draft model")
        return Assisted(pair.target, pair.draft, arm.draft_len).speculate
    k = arm.draft_len or 1
    draft = None if arm.method == "plain" else pair.draft if pair.draft is not None else NgramDrafter(k)
    decoder = make_decoder(cell.path, pair.target, draft, sampler or arm.sampler, k, _longest(pair, cell) + k + 2, cell.fused or "none")
    return decoder.plain if arm.method == "plain" else decoder.speculate


def make_decoder(path: str, target, draft, sampler, draft_len: int, max_length: int | None = None, fused: str = "none"):
    """The loop of that path. max_length: of the longest text and its drafts, so that the graph path captures once; fused: GraphDecoder's."""
    if path == "eager":
        return Decoder(target, draft=draft, sampler=sampler, draft_len=draft_len)
    from .graph_decoder import GraphDecoder

    rounded = max_length and -(-max_length // 64) * 64
    return GraphDecoder(target, draft=draft, sampler=sampler, draft_len=draft_len, max_length=rounded, fused=fused)


def _longest(pair, cell) -> int:
    return max(map(len, pair.prompts[:cell.prompts])) + cell.tokens


def check_sampler(pair: Pair, sampler, batch: int, draft_len: int):
    """The sampler as the loop calls it, on made-up rows of this vocabulary and dtype. RuntimeError if it fails: then it is not timed."""
    problem = make_problem(batch=batch, draft_len=draft_len, vocab=pair.vocab, dtype=row_dtype(pair.target.dtype), logits=True, device=str(pair.target.device))
    found = check(sampler, problem)
    if not found:
        raise RuntimeError(f"the check has not passed: {found}")
    return {key: value for key, value in found.to_dict().items() if key in ("passed", "problem", "requests", "exact", "explained_count", "compared")}


COLUMNS = ("prompt", "seed", "new_tokens", "tokens_per_s", "steps", "emitted", "request_steps", *(f"{part}_s" for part in PARTS),
           "prefill_s", "call_s")


class Running:
    """An arm while it is measured: its method and what its runs gave."""

    def __init__(self, pair: Pair, cell: Cell, arm: Arm):
        self.pair, self.cell, self.arm, self.failure, self.check, self.sampler = pair, cell, arm, None, None, None
        self.runs, self.texts, (self.tokens, self.seeds) = {key: [] for key in COLUMNS}, [], cell.of(arm)
        k = 0 if arm.method == "plain" else arm.draft_len or 0
        self.tested, self.accepted = [0] * k, [0] * k
        try:
            if arm.sampler:
                self.sampler = loop_sampler(arm.sampler)
                self.check = check_sampler(pair, self.sampler, cell.batch, max(1, k))
            self.method = make_method(pair, cell, arm, self.sampler)
            self._decode(range(cell.batch), 0, tokens=min(self.tokens, 2 * (k + 1) + 2))  # not counted
        except Exception as error:  # noqa: BLE001 (one arm that fails must not lose the others)
            self.failure = reason(error)

    def _decode(self, group, seed: int, tokens: int):
        return self.method([self.pair.prompts[i] for i in group], max_new_tokens=tokens, temperature=self.cell.temperature,
                           seeds=[1000 * seed + i for i in group], stop=self.pair.stop)

    def run(self, group, seed: int) -> None:
        """One run of a group of prompts; the failure of one ends the arm."""
        try:
            start = time.perf_counter()
            done = self._decode(group, seed, self.tokens)
            self._keep(done, group, seed, time.perf_counter() - start)
        except Exception as error:  # noqa: BLE001
            self.failure = reason(error)

    def _keep(self, done, group, seed, seconds):
        ours = isinstance(done.seconds, dict)
        row = {"prompt": group[0], "seed": seed, "new_tokens": done.new_tokens, "tokens_per_s": done.tokens_per_second if done.new_tokens else None,
               "steps": done.steps if ours else len(done.emitted), "emitted": sum(done.emitted), "request_steps": len(done.emitted),
               **{f"{part}_s": done.seconds[part] if ours else None for part in PARTS},
               "prefill_s": done.prefill_seconds if ours else done.whole_seconds - done.seconds, "call_s": seconds}
        for key in COLUMNS:
            self.runs[key].append(round(row[key], 7) if isinstance(row[key], float) else row[key])
        if ours and self.tested:
            self.tested = [a + b for a, b in zip(self.tested, done.tested)]
            self.accepted = [a + b for a, b in zip(self.accepted, done.accepted)]
        if self.cell.temperature == 0:
            self.texts += done.tokens

    def record(self) -> dict:
        return asdict(self.arm) | {"name": str(self.arm), "tokens": self.tokens, "seeds": self.seeds, "check": self.check,
                                   "loop_sampler": self.sampler and self.sampler.name, "source_hash": source_hash(self.arm.sampler),
                                   "tested": self.tested, "accepted": self.accepted, "runs": self.runs, "texts": self.texts}


def source_hash(name):
    """Of the sampler of that name as it is today; None without one."""
    from .sampler import load_sampler

    return name and load_sampler(name).source_hash


def reason(error: Exception) -> str:
    """What went wrong and in which line, in a line."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({Path(frame.filename).name}:{frame.lineno})" for frame in last)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:600]}{where}"


# ---- one cell ------------------------------------------------------------------------------------------------------------

def run_cell(pair: Pair, cell: Cell) -> dict:
    """The record of a cell. RuntimeError if none of its arms could be run."""
    began = time.perf_counter()
    arms = [Running(pair, cell, arm) for arm in cell.arms]
    groups = [range(start, start + cell.batch) for start in range(0, min(cell.prompts, len(pair.prompts)) - cell.batch + 1, cell.batch)]
    for seed in range(cell.seeds):
        for place, group in enumerate(groups):
            turn = (seed + place) % len(arms)  # no arm is always the first
            for arm in (*arms[turn:], *arms[:turn]):
                if seed < arm.seeds and not arm.failure:
                    arm.run(group, seed)
    done, failed = [arm for arm in arms if not arm.failure], {str(arm.arm): arm.failure for arm in arms if arm.failure}
    if not done:
        raise RuntimeError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    made = head(pair, cell) | {"arms": [arm.record() for arm in done], "left_out": failed} | predicted(pair, cell)
    return made | {"partings": partings(pair, made)} | {"seconds": round(time.perf_counter() - began, 1)}


def head(pair: Pair, cell: Cell) -> dict:
    """What every record says, also that of a failed cell."""
    import transformers

    environment = results.environment(str(pair.target.device)) | {"transformers": transformers.__version__}
    return {"format": FORMAT, "experiment": "llm", "created": datetime.now(UTC).isoformat(timespec="seconds"), "kind": cell.kind, "path": cell.path, "fused": cell.fused,
            "batch": cell.batch, "temperature": cell.temperature, "tokens": cell.tokens, "spec": cell.spec, "models": pair.names, "error": None,
            "environment": environment, "arms": [], "left_out": {}}


def predicted(pair: Pair, cell: Cell) -> dict:
    """{"predicted": [K]} of a `compare` cell at batch 1: sum min(target, draft) over the rows met, in a pass of its own, without a clock.

    On the eager path, which is slow, at temperature 1 only.
    """
    arm = next((arm for arm in cell.arms if arm.method == "speculation"), None)
    if cell.kind != "compare" or cell.batch != 1 or arm is None or (cell.path == "eager" and cell.temperature != 1):
        return {}
    probe = Probe(arm.draft_len)
    try:
        method = make_method(pair, cell, arm, probe)
        for i in range(min(cell.prompts, len(pair.prompts))):
            method([pair.prompts[i]], max_new_tokens=cell.tokens, temperature=cell.temperature, seeds=[i], stop=pair.stop)
    except Exception as error:  # noqa: BLE001 (a look at the rows must not lose the times)
        return {"predicted": None, "predicted_missing": reason(error)}
    return {"predicted": probe.predicted, "predicted_tested": probe.counts}


def partings(pair: Pair, made: dict) -> list[dict]:
    """Greedy texts that are not those of plain decoding: where they part, and how near the two tokens are there."""
    plain = next((arm for arm in made["arms"] if arm["method"] == "plain"), None)
    if made["temperature"] != 0 or plain is None:
        return []
    order = [i for start in plain["runs"]["prompt"] for i in range(start, start + made["batch"])]
    return [{"arm": arm["name"], "prompt": prompt} | found for arm in made["arms"] if arm is not plain
            for prompt, left, right in zip(order, plain["texts"], arm["texts"]) if (found := parting(pair.target, pair.prompts[prompt], left, right))]


# ---- all of them ---------------------------------------------------------------------------------------------------------

def record_all(pair: Pair, chosen, out="results", resume: bool = False, stop_after: float | None = None) -> bool:
    """Run and record the chosen cells in order, a line printed for each. True if all ran whole.

    resume: pass over cells that `out` holds already. stop_after: seconds after which no new cell is begun.
    """
    began, complete = time.perf_counter(), True
    gpu, held = results.environment(str(pair.target.device))["gpu"], llm_bench_records.load(out, failed=True) if resume else []
    hashes = {arm.sampler: source_hash(arm.sampler) for cell in chosen for arm in cell.arms if arm.sampler}
    waiting = [cell for cell in chosen if not llm_bench_records.is_finished(cell.spec, pair.names, gpu, hashes, held)]
    print(f"{gpu or 'CPU'}: {len(waiting)} of {len(chosen)} cells to run, {pair.names['target']} with {pair.names['draft']}", flush=True)
    for done, cell in enumerate(waiting):
        if stop_after and time.perf_counter() - began > stop_after:
            print(f"stopped after {time.perf_counter() - began:.0f} s with {len(waiting) - done} cells left: --resume goes on from here", flush=True)
            return False
        complete &= _recorded(pair, cell, out)
    return complete


def _recorded(pair: Pair, cell: Cell, out) -> bool:
    try:
        made = run_cell(pair, cell)
    except Exception as error:  # noqa: BLE001 (one cell that fails must not lose the others)
        made = head(pair, cell) | {"error": reason(error)}
    finally:
        gc.collect()
        if pair.target.device.type == "cuda":
            torch.cuda.empty_cache()
    llm_bench_records.write(made, out)
    print(line(cell, made), flush=True)
    return not made["error"] and not made["left_out"]


def line(cell: Cell, made: dict) -> str:
    """One line for a cell: tokens/s of each arm."""
    if made["error"]:
        return f"FAIL {cell}: {made['error']}"
    said = [f"{arm['name']} {s['median']:.1f}" for arm in made["arms"] if (s := llm_bench_records.spread(llm_bench_records.rates(arm)))]
    out = "".join(f"\n  left out, {name}: {why}" for name, why in made["left_out"].items())
    return f"{cell}: tokens/s {'; '.join(said)} [{made['seconds']:.0f} s]{out}"


# ---- for the notebook ----------------------------------------------------------------------------------------------------

def records_for_notebook(folder="", out="outputs", record=False, target="smollm2", draft="smollm2-draft", prompts=24, seeds=3, tiny_tokens=12):
    """(records, a line that says where they are from). record, on a GPU: the pair is decoded now. Else the records below `folder`
    (empty: the committed ones) are read, of the GPU and pair recorded last; without any, a tiny random model is decoded on this machine."""
    from .paths import results_dir
    from .readme import current_hashes

    now, hashes = record and torch.cuda.is_available(), current_hashes()
    if now:
        record_all(load_pair(target, draft, "cuda"), cells("v9", prompts=prompts, seeds=seeds), out)
    found = llm_bench_records.latest(llm_bench_records.load(out if now else folder or results_dir(), hashes))
    if found:
        first = found[0]
        return found, (f"{len(found)} records, {'made now' if now else 'recorded'} on {first['environment']['gpu'] or 'a CPU'}: {first['models']['target']} with "
                       f"{first['models']['draft']}, the last at {max(r['created'] for r in found)}")
    with one_thread():
        record_all(tiny_pair(), tiny_cells(tiny_tokens), out)
    return (llm_bench_records.latest(llm_bench_records.load(out, hashes)),
            "No decoding loop is recorded (`make gpu-llm` on a GPU does it): a tiny random model, decoded now on this CPU. Its times say nothing of a real one.")


def tiny_pair(prompts: int = 8) -> Pair:
    """A random model of two layers and a draft near it, in float64 on the CPU, with random prompts."""
    model, draw = tiny_model(), torch.Generator().manual_seed(0)
    texts = [torch.randint(0, 97, (3 + i,), generator=draw).tolist() for i in range(prompts)]
    return make_pair(model, moved(model), texts, (), "tiny random Llama", "the same, moved")


def tiny_cells(tokens: int = 12) -> list[Cell]:
    """The cells for it, small: few prompts and one seed."""
    listed = cells("torch_vectorised", prompts=4, seeds=1, tokens={"eager": tokens, "graph": tokens}, others=("python_loop",), longest=5)
    return [cell for cell in listed if cell.temperature != 0.7 and cell.fused != "none"]
