"""Kernels that must fail: one planted defect each, of a kind really shipped, by a small patch of the real sources.

A rung's text is flattened (its headers put in), and a mutant applies where its anchor, a regular expression, is found; so
the mutants follow the ladder, and one whose anchor is nowhere left is an error (`test_mutants.py`). A check that refuses
none of them would be a check that cannot fail.

    python -m spec_toolkit.mutants [--samplers v1 v4] [--out FOLDER]    # the table mutant x part of the report
"""
from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from . import contract, machine_code, results, suite
from .examine import REBATCHINGS, examine_laws, is_poison
from .paths import kernels_dir
from .probes import is_move, probe
from .sampler import list_kernels, load_sampler
from .synthetic import make_problem

PARTS = ("tokens", "law", "edges", "poison")
TIMEOUT_S = 600  # for one mutant on one rung


@dataclass(frozen=True)
class Mutant:
    """A defect: `what` in words, and the patches (anchor, replacement), of which each that is found is made once everywhere."""
    name: str
    what: str
    patches: tuple
    draw: str | None = None   # only rungs of this draw run what is patched
    input: str | None = None  # likewise: rungs from "probs" or from "logits"

    def apply(self, text: str) -> str | None:
        """The mutated text, or None where no anchor is found."""
        changed = text
        for anchor, replacement in self.patches:
            changed = re.sub(anchor, replacement, changed)
        return changed if changed != text else None


def flatten(text: str, folder: Path | None = None) -> str:
    """The text with each quoted include put in at its first place, so that one string is the whole kernel."""
    folder, done = folder or kernels_dir(), set()

    def include(match):
        path = folder / match[1]
        if match[1] in done or not path.is_file():
            return "" if match[1] in done else match[0]
        done.add(match[1])
        return _INCLUDE.sub(include, path.read_text().replace("#pragma once", ""))
    return _INCLUDE.sub(include, text)


_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[^\n]*', re.MULTILINE)


def rung_text(name: str) -> str:
    """The flattened source of a rung."""
    return flatten(next(kernels_dir().glob(f"{name}_*.cu")).read_text())


def applies_to(mutant: Mutant) -> list[str]:
    """The rungs that hold its anchor, in code that they run."""
    found = []
    for name in list_kernels():
        text = rung_text(name)
        if mutant.apply(text) is not None:
            said = contract.parse(text, name, {})
            found += [name] * (mutant.draw in (None, said.draw) and mutant.input in (None, said.input))
    return found


def load_mutant(mutant: Mutant, rung: str):
    """The mutated rung as a sampler, called "v1: inclusive accept". ValueError where the mutant does not apply."""
    text = mutant.apply(rung_text(rung))
    if text is None or rung not in applies_to(mutant):
        raise ValueError(f"{mutant.name}: no anchor in {rung}, accepted: {', '.join(applies_to(mutant))}")
    sampler = load_sampler(source=text)
    sampler.name = f"{rung}: {mutant.name}"
    return sampler


def _m(name, what, *patches, draw=None, input=None):
    return Mutant(name, what, patches if isinstance(patches[0], tuple) else (patches,), draw, input)


_ACCEPTS = r"\(double\)u \* draft < target"
_HALF_BIN = r"\(\(word >> 9\) \+ 0\.5f\) \* 0x1p-23f"
_RESIDUAL = r"return usable\(target - draft\) \? target - draft : 0\.0f;"

MUTANTS = (
    # ---- the rule
    _m("no residual", "recovers from the target row instead of max(target - draft, 0)", _RESIDUAL, "return usable(target) ? target : 0.0f;"),
    _m("absolute residual", "recovers from |target - draft|", _RESIDUAL, "return usable(fabsf(target - draft)) ? fabsf(target - draft) : 0.0f;"),
    _m("inclusive accept", "u * draft <= target", _ACCEPTS, "(double)u * draft <= target"),
    _m("accept in logarithms", "log u + log draft < log target, in float32", _ACCEPTS, "logf(u) + logf(draft) < logf(target)"),
    _m("accept ignores the draft", "u < target", _ACCEPTS, "u < target"),
    _m("accept by half", "accepts where target > draft / 2, without a random number", _ACCEPTS, "draft < 2.0f * target"),
    _m("accepts an infinity", "no test that the target probability is finite", r"x > 0\.0f && x < CUDART_INF_F", "x > 0.0f"),
    _m("one-hot draft taken for zero", "the residual keeps the rejected id where drafts have no rows", r"id == row\.drafted \? 1\.0f : 0\.0f|first \+ k == row\.drafted \? 1\.0f : 0\.0f", "0.0f"),
    _m("one-hot draft tested as 0.5", "a draft without a row is accepted with twice its probability", (r"return accepts\(u, p, q\);", "return accepts(u, p, row.draft ? q : 0.5f * q);"),
       (r"(q = [\w.]+ \? __shfl_sync\(ALL, chance, 16\) : )1\.0f;", r"\g<1>0.5f;")),
    # ---- random numbers
    _m("24-bit half-bin uniform", "(k + 0.5) * 2^-24 in float32, which rounds to 1", _HALF_BIN, "((word >> 8) + 0.5f) * 0x1p-24f"),
    _m("uniform includes 0", "k * 2^-23", _HALF_BIN, "(word >> 9) * 0x1p-23f"),
    _m("uniform includes 1", "(k + 1) * 2^-23", _HALF_BIN, "((word >> 9) + 1.0f) * 0x1p-23f"),
    _m("uniform of 16 bits", "(k + 0.5) * 2^-16 from the top 16 bits", _HALF_BIN, "((word >> 16) + 0.5f) * 0x1p-16f"),
    _m("draw uniform of 23 bits", "the inverse of the cumulative sum at a float32 uniform", r"return uniform52\(words\.x, words\.y\);", "return uniform23(words.x);", draw="cdf"),
    _m("accept uniform drawn with again", "the draw uses the number that rejected", r"const uint4 words = random_words\(seed, position, STREAM_RECOVER, num_accepted\);",
       "const uint4 words = random_words(seed, position, STREAM_ACCEPT, num_accepted);", draw="cdf"),
    _m("accept uniform of the draft", "the test uses the number that drafted", r"uniform23\(random_words\(seed, position, STREAM_ACCEPT, i\)\.x\)",
       "(float)uniform52(random_words(seed, position, STREAM_DRAFT, i).x, 0)"),
    _m("one uniform for all tests", "the same number at each position of a request", r"STREAM_ACCEPT, i\)", "STREAM_ACCEPT, 0)"),
    _m("randomness of the slot", "the seed of a request depends on its block", r"unsigned k0 = \(unsigned\)seed,", "unsigned k0 = (unsigned)seed + blockIdx.x,"),
    _m("seed of 32 bits", "the high word of the seed is lost", r"k1 = \(unsigned\)\(seed >> 32\)", "k1 = 0"),
    _m("position of 32 bits", "the high word of the position is lost", r"\(unsigned\)\(\(unsigned long long\)position >> 32\)", "0u"),
    _m("race noise clamped", "E + 1e-9", r"return near_one \? -logf\(u\) : -log1pf\(-u\);", "return (near_one ? -logf(u) : -log1pf(-u)) + 1e-9f;", draw="race"),
    _m("race noise of 24 bits", "E of a float32 uniform: nothing below 2^-25 or above 17.4", r"const bool near_one = high >> 31;", "low = 0, high = (high >> 8 << 8) | 128u; const bool near_one = high >> 31;", draw="race"),
    _m("race noise loses the upper end", "1 - u by subtraction near u = 1", r"const bool near_one = high >> 31;", "const bool near_one = false;", draw="race"),
    _m("race and accept share a stream", "the noise of the first ids decides the tests as well", r"STREAM_RACE, pair\)", "STREAM_ACCEPT, pair)"),
    _m("ties to the highest id", "of equal scores the last wins", (r"\(unsigned\)b\.token < \(unsigned\)a\.token", "(unsigned)b.token > (unsigned)a.token"),
       (r"second > best\.score", "second >= best.score && second > 0.0f")),
    # ---- rows
    _m("last tile ignored", "the vocabulary is rounded down to tiles", (r"\(vocab \+ TILE - 1\) / TILE", "vocab / TILE"),
       (r'tiles( *)= "ceil_div\(vocab \* itemsize, 2048\)"', r'tiles\1= "max(1, vocab * itemsize // 2048)"')),
    _m("last id ignored", "a loop over the vocabulary that ends one early", (r"first \+ k < vocab \?", "first + k < vocab - 1 ?"), (r"id < vocab && out\.total <= limit", "id < vocab - 1 && out.total <= limit"),
       (r"if \(id >= vocab\) break;", "if (id >= vocab - 1) break;")),
    _m("reads past the row", "no end of the vocabulary", (r"first \+ k < vocab \? row\[first \+ k\] : ROW\(OUTSIDE\)", "row[first + k]"), (r"id < vocab && out\.total <= limit", "id <= vocab && out.total <= limit")),
    _m("alignment assumed", "16-byte loads wherever a row begins", r"return \(reinterpret_cast<unsigned long long>\(p\) & 15\) == 0;", "return true;"),
    _m("target stride for the draft", "one stride for both kinds of rows", r"\* (rows\.)?draft_stride", r"* \1target_stride"),
    _m("offset of 16 bits", "the offset of a row in too narrow an integer (int32 past 2^31 elements, scaled down to what a CPU holds)",
       r"target_(probs|logits) \+ \(long long\)\((\w+(?:\.\w+)?) \+ (\w+)\) \* target_stride", r"target_\1 + (short)((\2 + \3) * target_stride)"),
    _m("sums in the type of the row", "half precision accumulates in half precision", (r"for \(int distance = 16; distance; distance /= 2\) x \+= __shfl_xor_sync\(ALL, x, distance\);",
       "for (int distance = 16; distance; distance /= 2) x = to_float(ROW(x + __shfl_xor_sync(ALL, x, distance)));"), (r"out\.total \+= weight;", "out.total = to_float(ROW((float)out.total + weight));"), draw="cdf"),
    _m("no last id with weight", "where rounding finds no crossing, the first part", r"mass \? 31 - __clz\(mass\) : 0;", "0;", draw="cdf"),
    _m("bonus row from the residual", "after a clean sweep the draft row before is subtracted",
       (r"Row row = \{rows\.target \+ accepted \* rows\.target_stride, nullptr, -1\};",
        "Row row = {rows.target + accepted * rows.target_stride, rows.draft && accepted ? rows.draft + (accepted - 1) * rows.draft_stride : nullptr, -1};"),
       (r"recovered && rows\.draft \? rows\.draft \+ accepted \* draft_stride : nullptr",
        "rows.draft && accepted + recovered ? rows.draft + (accepted - !recovered) * draft_stride : nullptr")),
    _m("all requests as long as the longest", "draft_start is not read", (r"start = draft_start\[(\w+)\], length = draft_start\[\1 \+ 1\] - start", r"start = \1 * max_draft, length = max_draft"),
       (r"start = draft_start\[(\w+)\];", r"start = \1 * max_draft;"), (r"if \(num_draft != \(long long\)batch \* max_draft\) ", "if (false) ")),
    # ---- the decision of a request
    _m("counts every draft that passes", "accepted = how many pass, not how many before the first rejection", r"if \(rejections\) return first \+ stop;", "if (rejections) return first + __popc(~rejections & (request.length - first < 32 ? (1u << (request.length - first)) - 1 : ~0u));"),
    _m("stops at the last rejection", "the highest lane of the ballot", r"rejections \? __ffs\(rejections\) - 1 : 31", "rejections ? 31 - __clz(rejections) : 31"),
    _m("tests 32 drafts only", "the first warp-full of a request", r"if \(rejections\) return first \+ stop;", "if (rejections) return first + stop; break;"),
    _m("wild id dereferenced", "no test of the upper end of an id", (r"if \(row\.drafted < 0 \|\| row\.drafted >= vocab\)", "if (row.drafted < 0)"),
       (r"inside = token >= 0 && token < vocab;", "inside = token >= 0;")),
    _m("id -1 dereferenced", "no test of the lower end of an id", (r"if \(row\.drafted < 0 \|\| row\.drafted >= vocab\)", "if (row.drafted >= vocab)"),
       (r"inside = token >= 0 && token < vocab;", "inside = token < vocab;")),
    _m("no fallback", "without mass in the residual, the residual is weighed again: token -1", r"return \{row\.target, nullptr, -1, row\.target_scale\};", "return row;"),
    _m("zero residual gives token 0", "the same, and what finds nothing gives the first id", (r"return \{row\.target, nullptr, -1, row\.target_scale\};", "return row;"),
       (r"i == accepted \? drawn : -1", "i == accepted ? max(drawn, 0) : -1"), (r"out\[accepted\] = drawn\.token;", "out[accepted] = max(drawn.token, 0);")),
    _m("status of tests that did not happen", "bits of drafts behind the first rejection", r"if \(lane <= stop\) status \|= met;", "status |= met;"),
    _m("NaN not reported", "the status bit is never set", (r"(\w+\.)?status \|= NONFINITE;", ";"),
       (r"isfinite\(p\) && isfinite\(q\) \? 0 : NONFINITE", "0")),
    # ---- logits
    _m("temperature ignored", "the softmax of the logits as they are", r"return temperature > 0\.0f \? LOG2_E / temperature : 1\.0f;", "return LOG2_E;", input="logits"),
    _m("temperature the wrong way round", "logits times the temperature", r"\? LOG2_E / temperature :", "? LOG2_E * temperature :", input="logits"),
    _m("no maximum subtracted", "the sum of the powers themselves", (r"base = top == -CUDART_INF_F \? 0\.0f : top;", "base = 0.0f;"),
       (r"return \{top, sum_warp\(sum\), ", "return {greedy ? top : 0.0f, sum_warp(sum), "), input="logits"),
    _m("sums joined as they are", "a tile's sum is not rebased to the row's maximum", r"sum \* power\(\(from - to\) \* factor\)", "sum", input="logits"),
    _m("greedy drawn at random", "temperature 0 is no case of its own", (r"const bool greedy = !\(temperature > 0\.0f\);", "const bool greedy = false;"),
       (r"greedy = !\(heat > 0\.0f\)", "greedy = false"), input="logits"),
    _m("greedy ties to the highest id", "the last maximum of a lane", r"for \(int k = VEC - 1; k >= 0; --k\)", "for (int k = 0; k < VEC; ++k)", input="logits"),
    _m("draft_lse ignored", "the draft row is normalised anew", (r"is_draft && draft_lse && heat > 0\.0f", "false"),
       (r"lse = draft_lse \? draft_lse \+ request\.start : nullptr;", "lse = nullptr;"), input="logits"),
    # ---- memory
    _m("tail not written", "the row of outputs ends with the drawn token", (r"for \(int i = thread; i <= max_draft;", "for (int i = thread; i <= accepted;"), (r"for \(int i = accepted \+ 1; i <= max_draft; \+\+i\) out\[i\] = -1;", "")),
    _m("tail one too long", "writes into the next request's row", (r"for \(int i = thread; i <= max_draft;", "for (int i = thread; i <= max_draft + 1;"), (r"i <= max_draft; \+\+i\) out\[i\] = -1;", "i <= max_draft + 1; ++i) out[i] = -1;")),
    _m("writes nothing", "returns before the outputs", (r"\n( *)write_tokens\(", r"\n\1return;\n\1write_tokens("), (r"\n    out\[accepted\] = drawn\.token;", "\n    return;\n    out[accepted] = drawn.token;")),
    _m("status not written", "left to the caller to clear", (r"\n\s*status\[\w+\] = [^;]*;", "\n    if (false) return;"), (r", status\[b\] = [^;]*;", ";")),
    _m("scratch in an input", "the drafts are overwritten", (r"if \(lane == 0\) num_accepted\[b\] = accepted, ", "if (lane == 0) ((int*)rows.tokens)[0] = 7, num_accepted[b] = accepted, "),
       (r"\n( *)num_accepted\[(\w+)\] = (\w+);", r"\n\1num_accepted[\2] = \3; if (max_draft) ((int*)draft_tokens)[0] = 7;")),
    _m("counter not reset", "the second call finds what the first one left", (r"arrived\[b\] = 0, met\[b\] = 0;", "met[b] = 0;"), (r"queue\[b\] = \(unsigned long long\)call << 32;", "queue[b] = ((unsigned long long)call << 32) + 1;")),
    _m("missing barrier", "the other warps do not wait for the decision", (r"(shared_accepted = accepted, shared_bits = bits[^;]*;\n    \})\n    __syncthreads\(\);", r"\1"), (r"if \(clusters == 1\) __syncthreads\(\);", ""),
       (r"(shared\.ticket = atomicAdd\(&queue\[b\], 1ull\);\n)    __syncthreads\(\);", r"\1"), (r"(tile_stats\[[^\n]*\] = \w+;\n(?: *\}\n)+) *__syncthreads\(\);", r"\1")),
    _m("missing barrier of the cluster", "blocks read the sums before all have come", r"\n( *)cluster_barrier\(\);", ""),
    _m("barrier in a branch", "only some threads reach it", r"\n    __syncthreads\(\);\n    const int accepted = shared_accepted;", "\n    if (lane < 16) __syncthreads();\n    const int accepted = shared_accepted;"),
)


# ---- the table ---------------------------------------------------------------------------------------------------------

def is_idle(mutant: Mutant, rung: str) -> bool:
    """Is the patched code in no path that the rung runs? Then both compile to the same machine code for the CPU."""
    pair = [load_sampler(source=text) for text in (rung_text(rung), mutant.apply(rung_text(rung)))]
    for dtype in (torch.float32, torch.bfloat16):  # some change nothing for one of them
        problem = make_problem(1, 1, 3, logits=pair[0].input == "logits", dtype=dtype)
        if len({machine_code.mark(sampler.kernels(problem)) for sampler in pair}) > 1:
            return False
    return pair[0].contract == pair[1].contract


def findings(mutant: Mutant, rung: str, level="quick", device="cpu", seed=0, first=False) -> dict[str, str] | None:
    """{part of the report: the first thing in it that refuses the mutant}; {} if nothing does. first: stop at the first part.
    None where the rung does not run what is patched.

    Raises if the mutant does not compile: that would be no catch. A kernel that faults in a law counts under poison.
    """
    sampler = load_mutant(mutant, rung)
    kind, found = sampler.input, {}
    sampler.kernels(make_problem(1, 1, 3, logits=kind == "logits", device=device))
    for part, words in _searched(sampler, level, device, seed, kind, found):
        found.setdefault(part, words)
        if first:
            break
    return found if found or not is_idle(mutant, rung) else None


def _searched(sampler, level, device, seed, kind, found):
    """(part, words) of each finding; a case is left out once its part has one."""
    single = lambda case: case.arguments.get("dtype", torch.float32) is torch.float32  # first: they share one compilation
    for case in sorted(suite.listed(level, kind), key=lambda case: (not single(case), case.part)):
        if case.part not in found and suite.unfit(case, device) is None:
            for failure in suite.run_case(sampler, case, device, seed).failures:
                yield "poison" if is_poison(failure) else case.part, f"{case.name}: {failure}"
    if "poison" not in found or "edges" not in found:
        for name, differences in probe(sampler, device, seed, REBATCHINGS[level]).items():
            yield from (("edges" if is_move(name) else "poison", f"{name}: {text}") for text in differences[:1])
    if "law" not in found:
        for law in examine_laws(sampler, level, device, seed, kind=kind)[0]:
            if not law:
                yield "law" if law.draws else "poison", str(law)


def kill(mutants=MUTANTS, rungs=None, level="quick", device="cpu", seed=0, say=print, jobs=1, held=(), first=False) -> list[dict]:
    """[{mutant, what, rung, source, idle, complete, caught_by, findings}] of every mutant on every rung it applies to (of `rungs`, None = all).

    Each in a process of its own, `jobs` at a time: compiled code is never unloaded, and a mutant may take its process with
    it or never end, which is a catch too. held: such entries from before; what they hold of the same source is not run again.
    first: ask no further part once one has refused a mutant (which is then not `complete`).
    """
    pairs = [(mutant, rung) for mutant in mutants for rung in applies_to(mutant) if rungs is None or rung in rungs]
    known = {(entry["mutant"], entry["rung"], entry["source"]): entry for entry in held}
    old = {(mutant.name, rung): known[key] for mutant, rung in pairs if (key := (mutant.name, rung, mark(mutant, rung))) in known}
    new = judged([pair for pair in pairs if (pair[0].name, pair[1]) not in old], level, device, seed, say, jobs, first)
    found = old | {(entry["mutant"], entry["rung"]): entry for entry in new}
    return [found[mutant.name, rung] for mutant, rung in pairs]


def mark(mutant: Mutant, rung: str) -> str:
    """Of the mutated source: a finding stands as long as it is the same."""
    return hashlib.sha256(mutant.apply(rung_text(rung)).encode()).hexdigest()[:16]


def judged(pairs, level="quick", device="cpu", seed=0, say=print, jobs=1, first=False) -> list[dict]:
    """The same of (mutant, rung) pairs; first: of each only the first part that refuses it."""
    found = []
    with ThreadPoolExecutor(jobs) as pool:
        for (mutant, rung), caught in zip(pairs, pool.map(lambda pair: _apart(*pair, level, device, seed, first), pairs)):
            entry = {"mutant": mutant.name, "what": mutant.what, "rung": rung, "source": mark(mutant, rung), "idle": caught is None, "complete": not first,
                     "caught_by": sorted(caught or {}, key=PARTS.index), "findings": {part: words[:300] for part, words in (caught or {}).items()}}
            found.append(entry)
            say(f"{'idle   ' if entry['idle'] else 'caught ' if caught else 'MISSED '} {mutant.name} ({rung}): {', '.join(entry['caught_by'])}")
    return found


def _apart(mutant, rung, *words) -> dict[str, str] | None:
    """`findings` in a process of its own. Raises what it raised."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(send, mutant, rung, *words), daemon=True)
    process.start()
    send.close()
    try:
        if not receive.poll(TIMEOUT_S):
            return {"poison": f"no answer within {TIMEOUT_S} s"}
        outcome = receive.recv()
    except EOFError:
        process.join()
        return {"poison": f"it took its process with it (exit code {process.exitcode})"}
    finally:
        process.kill()
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _report(send, *task) -> None:
    torch.set_num_threads(1)
    try:
        send.send(findings(*task))
    except Exception as error:  # noqa: BLE001 (raised again by whoever asked)
        send.send(RuntimeError(f"{task[0].name} ({task[1]}): {type(error).__name__}: {error}"))


def running(found) -> list[dict]:
    """The entries of mutants that their rung runs."""
    return [entry for entry in found if not entry["idle"]]


def table(found) -> str:
    """A Markdown table: mutants x parts; in a cell the rungs on which that part refused it."""
    lines = [f"| mutant | {' | '.join(PARTS)} | missed |", f"|---|{'---|' * (len(PARTS) + 1)}"]
    found = running(found)
    for name in dict.fromkeys(entry["mutant"] for entry in found):
        mine = [entry for entry in found if entry["mutant"] == name]
        cells = [" ".join(e["rung"] for e in mine if part in e["caught_by"]) for part in PARTS]
        lines.append(f"| {name} | {' | '.join(cells)} | {' '.join(e['rung'] for e in mine if not e['caught_by'])} |")
    return "\n".join(lines) + "\n"


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spec_toolkit.mutants", description="Every mutant through the whole report.")
    parser.add_argument("--samplers", nargs="+", metavar="NAME", help="rungs (default: all)")
    parser.add_argument("--mutants", nargs="+", metavar="NAME", help="names (default: all)")
    parser.add_argument("--level", default="quick", choices=("few", "quick", "thorough"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    parser.add_argument("--out", metavar="FOLDER", help="receives mutants.json and mutants.md (such as results/cpu/mutants)")
    parser.add_argument("--first", action="store_true", help="stop at the first part that refuses a mutant: several times faster")
    parser.add_argument("--resume", action="store_true", help="do not run again what --out holds of the same source, judged at the same level")
    args = parser.parse_args(argv)
    chosen = [m for m in MUTANTS if not args.mutants or m.name in args.mutants]
    record = Path(args.out) / "mutants.json" if args.out else None
    before = json.loads(record.read_text()) if args.resume and record and record.is_file() else {}
    held = before["found"] if before.get("level") == args.level else []
    found = kill(chosen, args.samplers, args.level, args.device, say=lambda text: print(text, flush=True), jobs=args.jobs, held=held, first=args.first)
    run = running(found)
    missed = [entry for entry in run if not entry["caught_by"]]
    print(f"{len({e['mutant'] for e in run})} mutants on {len({e['rung'] for e in run})} rungs: {len(run) - len(missed)} of {len(run)} refused "
          f"({len(found) - len(run)} times the rung does not run what is patched)")
    if record:
        record.parent.mkdir(parents=True, exist_ok=True)
        results.write_atomically(record, results.to_text({"format": "spec_toolkit mutants 1", "level": args.level, "refused": len(run) - len(missed),
                                                          "of": len(run), "environment": results.environment(args.device), "found": found}))
        results.write_atomically(record.with_suffix(".md"), table(found))
    return 1 if missed or not run else 0


if __name__ == "__main__":
    from spec_toolkit import mutants  # by its real name, which the processes know it by
    globals().update(__spec__=None, __file__=None)  # so that they do not run this file again as their main module
    sys.exit(mutants.main())
