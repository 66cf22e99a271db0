"""What the notebook of a language model shows: records that are there, made now on a GPU, or of a tiny model on this machine."""
from __future__ import annotations

import torch

from . import llm_bench_records
from .llm_bench import record_all
from .llm_bench_cells import Cell, cells
from .llm_bench_pair import load_pair, tiny_pair
from .loop_law import one_thread
from .verifier import BEST


def records_of(folder="", out="outputs", record=False, target="smollm2", draft="smollm2-draft", prompts=24, seeds=3, tiny_tokens=12):
    """(records, a line that says where they are from). record, on a GPU: the pair is decoded now. Else the records below `folder`
    (empty: the committed ones) are read, of the GPU and pair recorded last; without any, a tiny random model is decoded on this machine."""
    from .paths import results_dir
    from .readme import current_hashes

    now, hashes = record and torch.cuda.is_available(), current_hashes()
    if now:
        pair = load_pair(target, draft, "cuda")
        record_all(pair, cells(BEST, prompts=prompts, seeds=seeds, features=pair.features), out)
    found = llm_bench_records.latest(llm_bench_records.load(out if now else folder or results_dir(), hashes))
    if found:
        first = found[0]
        return found, (f"{len(found)} records, {'made now' if now else 'recorded'} on {first['environment']['gpu'] or 'a CPU'}: "
                       f"{first['models']['target']} with {first['models']['draft']}, the last at {max(r['created'] for r in found)}")
    with one_thread():
        record_all(tiny_pair(), tiny_cells(tiny_tokens), out)
    return (llm_bench_records.latest(llm_bench_records.load(out, hashes)),
            ("No decoding loop is recorded (`make gpu-llm` on a GPU does it): a tiny random model, decoded now on this CPU. "
             "Its times say nothing of a real one."))


def tiny_cells(tokens: int = 12) -> list[Cell]:
    """The cells for it, small: few prompts and one seed."""
    return cells("torch_vectorised", prompts=4, seeds=1, tokens={"eager": tokens, "graph": tokens}, others=("python_loop",), longest=5,
                 temperatures=(0.0, 1.0), features=True)
