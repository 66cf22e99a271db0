"""The planted defects: each of a kind really shipped, as patches of the rungs' sources (mutant_kernels.py applies, mutants.py judges them).

An anchor is a regular expression; where a defect has several, each is for another way in which the rungs do the same thing.

Some are for rungs from probabilities alone. Stored probabilities are exact, so a test u * draft < target has a right answer to the last
bit. From logits both sides are a float32 softmax, and what moves a decision or a draw by less than that rounds (a boundary met
exactly, u = 1 for 1 - 2^-24, a draw by 23 bits) cannot be told from it. A target's softmax has no infinity at all.
"""
from __future__ import annotations

import re
from dataclasses import dataclass


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


def _m(name, what, *patches, draw=None, input=None):
    return Mutant(name, what, patches if isinstance(patches[0], tuple) else (patches,), draw, input)


_ACCEPTS = r"\(double\)u \* draft < target"
_HALF_BIN = r"\(\(word >> 9\) \+ 0\.5f\) \* 0x1p-23f"
_RESIDUAL = r"return usable\(target - draft\) \? target - draft : 0\.0f;"

MUTANTS = (
    # ---- the rule
    _m("no residual", "recovers from the target row instead of max(target - draft, 0)",
       _RESIDUAL, "return usable(target) ? target : 0.0f;"),
    _m("absolute residual", "recovers from |target - draft|",
       _RESIDUAL, "return usable(fabsf(target - draft)) ? fabsf(target - draft) : 0.0f;"),
    _m("inclusive accept", "u * draft <= target", _ACCEPTS, "(double)u * draft <= target", input="probs"),
    _m("accept in logarithms", "log u + log draft < log target, in float32",
       _ACCEPTS, "logf(u) + logf(draft) < logf(target)", input="probs"),
    _m("accept ignores the draft", "u < target", _ACCEPTS, "u < target"),
    _m("accept by half", "accepts where target > draft / 2, without a random number", _ACCEPTS, "draft < 2.0f * target"),
    _m("accepts an infinity", "no test that the target probability is finite",
       r"x > 0\.0f && x < CUDART_INF_F", "x > 0.0f", input="probs"),
    _m("one-hot draft taken for zero", "the residual keeps the rejected id where drafts have no rows",
       r"id == row\.drafted \? 1\.0f : 0\.0f|first \+ k == row\.drafted \? 1\.0f : 0\.0f", "0.0f"),
    _m("one-hot draft tested as 0.5", "a draft without a row is accepted with twice its probability",
       (r"return accepts\(u, p, q\);", "return accepts(u, p, row.draft ? q : 0.5f * q);"),
       (r"( q = [\w.]+ \? [^:;]+ : )1\.0f;", r"\g<1>0.5f;")),
    # ---- random numbers
    _m("24-bit half-bin uniform", "(k + 0.5) * 2^-24 in float32, which rounds to 1",
       _HALF_BIN, "((word >> 8) + 0.5f) * 0x1p-24f", input="probs"),
    _m("uniform includes 0", "k * 2^-23", _HALF_BIN, "(word >> 9) * 0x1p-23f"),
    _m("uniform includes 1", "(k + 1) * 2^-23", _HALF_BIN, "((word >> 9) + 1.0f) * 0x1p-23f", input="probs"),
    _m("uniform of 16 bits", "(k + 0.5) * 2^-16 from the top 16 bits", _HALF_BIN, "((word >> 16) + 0.5f) * 0x1p-16f"),
    _m("draw uniform of 23 bits", "the inverse of the cumulative sum at a float32 uniform",
       r"return uniform52\(words\.x, words\.y\);", "return uniform23(words.x);", draw="cdf", input="probs"),
    _m("accept uniform drawn with again", "the draw uses the number that rejected",
       r"const uint4 words = random_words\(seed, position, STREAM_RECOVER, num_accepted\);",
       "const uint4 words = random_words(seed, position, STREAM_ACCEPT, num_accepted);", draw="cdf"),
    _m("accept uniform of the draft", "the test uses the number that drafted",
       r"uniform23\(random_words\(seed, position, STREAM_ACCEPT, i\)\.x\)",
       "(float)uniform52(random_words(seed, position, STREAM_DRAFT, i).x, 0)"),
    _m("one uniform for all tests", "the same number at each position of a request", r"STREAM_ACCEPT, i\)", "STREAM_ACCEPT, 0)"),
    _m("randomness of the slot", "the seed of a request depends on its block",
       r"unsigned k0 = \(unsigned\)seed,", "unsigned k0 = (unsigned)seed + blockIdx.x,"),
    _m("seed of 32 bits", "the high word of the seed is lost", r"k1 = \(unsigned\)\(seed >> 32\)", "k1 = 0"),
    _m("position of 32 bits", "the high word of the position is lost", r"\(unsigned\)\(\(unsigned long long\)position >> 32\)", "0u"),
    _m("race noise clamped", "E + 1e-9",
       r"return near_one \? -logf\(u\) : -log1pf\(-u\);", "return (near_one ? -logf(u) : -log1pf(-u)) + 1e-9f;", draw="race"),
    _m("race noise of 24 bits", "E of a float32 uniform: nothing below 2^-25 or above 17.4",
       r"const bool near_one = high >> 31;", "low = 0, high = (high >> 8 << 8) | 128u; const bool near_one = high >> 31;", draw="race"),
    _m("race noise loses the upper end", "1 - u by subtraction near u = 1",
       r"const bool near_one = high >> 31;", "const bool near_one = false;", draw="race"),
    _m("race and accept share a stream", "the noise of the first ids decides the tests as well",
       r"STREAM_RACE, pair\)", "STREAM_ACCEPT, pair)"),
    _m("ties to the highest id", "of equal scores the last wins",
       (r"\(unsigned\)b\.token < \(unsigned\)a\.token", "(unsigned)b.token > (unsigned)a.token"),
       (r"second > best\.score", "second >= best.score && second > 0.0f")),
    _m("proposal always kept", "the recovered token is drawn from the target row",
       r"numbers\.y \* own < residual\(own, taken\)", "own > 0.0f", draw="propose"),
    _m("proposal kept by its own number", "one uniform draws the id and keeps it",
       r"numbers\.y \* own", "numbers.x * own", draw="propose"),
    _m("what a proposal met is not told", "a draft entry that is not finite: the proposal is not kept, and the status is silent",
       r"!isfinite\(taken\) \? NOT_FINITE : ", "", draw="propose"),
    _m("what all proposals met is told", "the status depends on how many are made side by side",
       r"if \(bad & \(good & 0u - good\) - 1\)", "if (bad)", draw="propose"),
    _m("what no proposal gave comes from the target", "where none is kept, the target row is drawn from instead of the residual",
       r"weigh_all\(request, row,", "weigh_all(request, without_draft(row),", draw="propose"),
    # ---- rows
    _m("last tile ignored", "the vocabulary is rounded down to tiles",
       (r"\(vocab \+ TILE - 1\) / TILE", "vocab / TILE"),
       (r'tiles( *)= "ceil_div\(vocab \* itemsize, 2048\)"', r'tiles\1= "max(1, vocab * itemsize // 2048)"')),
    _m("last id ignored", "a loop over the vocabulary that ends one early",
       (r"first \+ k < vocab \?", "first + k < vocab - 1 ?"),
       (r"id < vocab && out\.total <= limit", "id < vocab - 1 && out.total <= limit"),
       (r"if \(id >= vocab\) break;", "if (id >= vocab - 1) break;")),
    _m("reads past the row", "no end of the vocabulary",
       (r"first \+ k < vocab \? row\[first \+ k\] : ROW\(OUTSIDE\)", "row[first + k]"),
       (r"id < vocab && out\.total <= limit", "id <= vocab && out.total <= limit")),
    _m("reads past the last piece", "a tile is as long as all others, whatever is left of the row", r"i \* STEP < rest \?", "true ?", input="logits"),
    _m("a row ends with a piece", "what is right for most vocabularies",
       (r" && vocab % VEC == 0", ""), (r"\|\| rest % VEC == 0", "|| true"), input="logits"),
    _m("alignment assumed", "16-byte loads wherever a row begins",
       r"return \(reinterpret_cast<unsigned long long>\(p\) & 15\) == 0;", "return true;"),
    _m("target stride for the draft", "one stride for both kinds of rows", r"\* (rows\.)?draft_stride", r"* \1target_stride"),
    _m("offset of 16 bits", "the offset of a row in too narrow an integer (int32 past 2^31 elements, scaled down to what a CPU holds)",
       (r"target_(probs|logits) \+ \(long long\)\((\w+(?:\.\w+)?) \+ (\w+)\) \* target_stride",
        r"target_\1 + (short)((\2 + \3) * target_stride)"),
       (r"target_logits \+ \(start \+ b \+ i\) \* target_stride", "target_logits + (short)((start + b + i) * target_stride)")),
    _m("sums in the type of the row", "half precision accumulates in half precision",
       (r"for \(int distance = 16; distance; distance /= 2\) x \+= __shfl_xor_sync\(ALL, x, distance\);",
        "for (int distance = 16; distance; distance /= 2) x = to_float(ROW(x + __shfl_xor_sync(ALL, x, distance)));"),
       (r"out\.total \+= weight;", "out.total = to_float(ROW((float)out.total + weight));"), draw="cdf"),
    _m("no last id with weight", "where rounding finds no crossing, the first part", r"mass \? 31 - __clz\(mass\) : 0;", "0;", draw="cdf"),
    _m("bonus row from the residual", "after a clean sweep the draft row before is subtracted",
       (r"Row row = \{rows\.target \+ accepted \* rows\.target_stride, nullptr, -1\};",
        ("Row row = {rows.target + accepted * rows.target_stride, "
         "rows.draft && accepted ? rows.draft + (accepted - 1) * rows.draft_stride : nullptr, -1};")),
       (r"recovered && rows\.draft \? rows\.draft \+ accepted \* draft_stride : nullptr",
        "rows.draft && accepted + recovered ? rows.draft + (accepted - !recovered) * draft_stride : nullptr"),
       (r"tested && rows\.draft \? rows\.draft \+ i \* draft_stride : nullptr",
        "rows.draft && i + tested ? rows.draft + (i - !tested) * draft_stride : nullptr")),
    _m("all requests as long as the longest", "draft_start is not read",
       (r"start = draft_start\[(\w+)\], length = draft_start\[\1 \+ 1\] - start", r"start = \1 * max_draft, length = max_draft"),
       (r"start = draft_start\[(\w+)\];", r"start = \1 * max_draft;"),
       (r"if \(num_draft != \(long long\)batch \* max_draft\) ", "if (false) ")),
    # ---- the decision of a request
    _m("counts every draft that passes", "accepted = how many pass, not how many before the first rejection",
       r"if \(rejections\) return first \+ stop;",
       "if (rejections) return first + __popc(~rejections & (request.length - first < 32 ? (1u << (request.length - first)) -"
       " 1 : ~0u));"),
    _m("stops at the last rejection", "the highest lane of the ballot",
       r"rejections \? __ffs\(rejections\) - 1 : 31", "rejections ? 31 - __clz(rejections) : 31"),
    _m("tests 32 drafts only", "the first warp-full of a request",
       r"if \(rejections\) return first \+ stop;", "if (rejections) return first + stop; break;"),
    _m("wild id dereferenced", "no test of the upper end of an id",
       (r"if \(row\.drafted < 0 \|\| row\.drafted >= vocab\)", "if (row.drafted < 0)"),
       (r"inside = token >= 0 && token < vocab;", "inside = token >= 0;"),
       (r"((?:real = |last_thread && )token >= 0) && token < vocab", r"\1")),
    _m("id -1 dereferenced", "no test of the lower end of an id",
       (r"if \(row\.drafted < 0 \|\| row\.drafted >= vocab\)", "if (row.drafted >= vocab)"),
       (r"inside = token >= 0 && token < vocab;", "inside = token < vocab;"),
       (r"(real = |last_thread && )token >= 0 && (token < vocab)", r"\1\2")),
    _m("no fallback", "without mass in the residual, the residual is weighed again: token -1",
       r"return \{row\.target, nullptr, -1, row\.target_scale\};", "return row;"),
    _m("zero residual gives token 0", "the same, and what finds nothing gives the first id",
       (r"return \{row\.target, nullptr, -1, row\.target_scale\};", "return row;"),
       (r"i == accepted \? drawn : -1", "i == accepted ? max(drawn, 0) : -1"),
       (r"out\[accepted\] = drawn\.token;", "out[accepted] = max(drawn.token, 0);")),
    _m("ends at any rejection", "does not ask whether all before it were accepted",
       r"end && !\(open && open < end\) \? end - 1", "end ? end - 1"),
    _m("verdicts not cleared", "a call finds the verdicts of the one before the last",
       r"if \(i == 0 && threadIdx\.x < groups\) verdicts_of\(b, call \+ 1\)\[threadIdx\.x\] = 0;", ""),
    _m("verdicts of another call looked at", "a block asks whether its request has ended by the verdicts of the call before",
       r"shared\.ends\[shared\.call % 2\]", "shared.ends[(shared.call + 1) % 2]", input="logits"),
    _m("outcome dropped too early", "a block that does not know yet where the request ends goes, and hands nothing over",
       r"shared\.end >= 0 && shared\.end != i\) return;", "shared.end != i) return;", input="logits"),
    _m("words of another call taken", "what a word holds is taken for a number of this call",
       r"if \(!others \|\| left\) break;", "break;", input="logits"),
    _m("outcome not handed over", "the block that decides where a request ends leaves the outcome to the one that drew it, which has gone",
       r"return end_of\(before\) < 0 && end >= 0 && before >> end & 1 \? end : -1;", "return -1;", input="logits"),
    _m("outcome claimed by another", "a block takes the right to write before it knows whether the outcome is its own",
       r"return end_of\(verdicts, groups, drawn\) == i && atomicExch\(written, call\) != call;",
       "return atomicExch(written, call) != call && end_of(verdicts, groups, drawn) == i;", input="logits"),
    _m("status of tests that did not happen", "bits of drafts behind the first rejection",
       r"if \(lane <= stop\) status \|= met;", "status |= met;"),
    _m("NaN not reported", "the status bit is never set",
       (r"(\w+\.)?status \|= NONFINITE;", ";"),
       (r"isfinite\(p\) && isfinite\(q\) \? 0 : NONFINITE", "0")),
    # ---- logits
    _m("temperature ignored", "the softmax of the logits as they are",
       r"return temperature > 0\.0f \? LOG2_E / temperature : 1\.0f;", "return LOG2_E;", input="logits"),
    _m("temperature the wrong way round", "logits times the temperature",
       r"\? LOG2_E / temperature :", "? LOG2_E * temperature :", input="logits"),
    _m("no maximum subtracted", "the sum of the powers themselves",
       (r"logit = top == -CUDART_INF_F \? 0\.0f : top;", "logit = 0.0f;"),
       (r"return \{top, is_near", "return {greedy ? top : 0.0f, is_near"),
       (r"lane & 1 \? sum : top\)", "lane & 1 ? sum : 0.0f)"), input="logits"),
    _m("maximum of every second id", "of two logits in a word one is looked at",
       r"fmaxf\(logit_of\(both, 0, ROW\(\)\), logit_of\(both, VEC - 1, ROW\(\)\)\)", "logit_of(both, 0, ROW())", input="logits"),
    _m("negative maxima the wrong way round", "the bits of a float taken for an integer as they are",
       (r"bits \^ \(bits >> 31 & 0x7fffffff\)", "bits"), (r"most \^ \(most >> 31 & 0x7fffffff\)", "most"), input="logits"),
    _m("bfloat16 with its neighbour below", "the lower half of a word stays in the float of the upper one",
       r"k % 2 \? word & 0xffff0000u :", "k % 2 ? word :", input="logits"),
    _m("large logits by one instruction", "what rounding adds to the product of a large logit is not small",
       r"fabsf\(base\.shift\) < 0x1p15f", "fabsf(base.shift) < CUDART_INF_F", input="logits"),
    _m("sums joined as they are", "a tile's sum is not rebased to the row's maximum",
       r"sum \* power\(\(from - to\) \* factor\)", "sum", input="logits"),
    _m("greedy drawn at random", "temperature 0 is no case of its own",
       (r"const bool greedy = !\(temperature > 0\.0f\);", "const bool greedy = false;"),
       (r"greedy = !\(heat > 0\.0f\)", "greedy = false"), input="logits"),
    _m("greedy ties to the highest id", "the last maximum of a lane",
       r"for \(int k = VEC - 1; k >= 0; --k\)", "for (int k = 0; k < VEC; ++k)", input="logits"),
    _m("draft_lse ignored", "the draft row is normalised anew",
       (r"is_draft && draft_lse && heat > 0\.0f", "false"),
       (r"lse = draft_lse \? draft_lse \+ request\.start : nullptr;", "lse = nullptr;"),
       (r"(reads_draft = [\w.]+) && \(!draft_lse \|\| [^;]*;", r"\1;"), input="logits"),
    # ---- memory
    _m("tail not written", "the row of outputs ends with the drawn token",
       (r"for \(int i = thread; i <= max_draft;", "for (int i = thread; i <= accepted;"),
       (r"for \(int i = accepted \+ 1; i <= max_draft; \+\+i\) out\[i\] = -1;", "")),
    _m("tail one too long", "writes into the next request's row",
       (r"for \(int i = thread; i <= max_draft;", "for (int i = thread; i <= max_draft + 1;"),
       (r"i <= max_draft; \+\+i\) out\[i\] = -1;", "i <= max_draft + 1; ++i) out[i] = -1;")),
    _m("writes nothing", "returns before the outputs",
       (r"\n( *)write_tokens\(", r"\n\1return;\n\1write_tokens("),
       (r"\n    out\[accepted\] = drawn\.token;", "\n    return;\n    out[accepted] = drawn.token;")),
    _m("status not written", "left to the caller to clear",
       (r"\n\s*status\[\w+\] = [^;]*;", "\n    if (false) return;"),
       (r", status\[\w+\] = [^;]*;", ";")),
    _m("scratch in an input", "the drafts are overwritten",
       (r"if \(lane == 0\) num_accepted\[b\] = accepted, ", "if (lane == 0) ((int*)rows.tokens)[0] = 7, num_accepted[b] = accepted, "),
       (r"\n( *)num_accepted\[(\w+)\] = (\w+);", r"\n\1num_accepted[\2] = \3; if (max_draft) ((int*)draft_tokens)[0] = 7;")),
    _m("counter not reset", "the second call finds what the first one left",
       (r"arrived\[b\] = 0, met\[b\] = 0;", "met[b] = 0;"),
       (r"queue\[b\] = \(unsigned long long\)call << 32;", "queue[b] = ((unsigned long long)call << 32) + 1;")),
    _m("missing barrier", "the other warps do not wait for the decision",
       (r"(shared_accepted = accepted, shared_bits = bits[^;]*;\n    \})\n    __syncthreads\(\);", r"\1"),
       (r"if \(clusters == 1\) __syncthreads\(\);", ""),
       (r"(shared\.ticket = atomicAdd\(&queue\[b\], 1ull\);\n)    __syncthreads\(\);", r"\1"),
       (r"(made\[warp\] = [^\n]*\n) *__syncthreads\(\);", r"\1"),
       (r"((?:tile_stats\[[^\n]*\] = \w+;|shared_call = [^\n]*;)\n(?: *\}\n)*) *__syncthreads\(\);", r"\1")),
    _m("missing barrier of the cluster", "blocks read the sums before all have come", r"\n( *)cluster_barrier\(\);", ""),
    _m("barrier in a branch", "only some threads reach it",
       r"\n    __syncthreads\(\);\n    const int accepted = shared_accepted;",
       "\n    if (lane < 16) __syncthreads();\n    const int accepted = shared_accepted;"),
)
