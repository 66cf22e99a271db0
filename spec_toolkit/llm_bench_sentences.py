"""What records of decoding loops say in words: what was reached, what was not, and why. Sees only records."""
from __future__ import annotations

import statistics

from . import llm_bench_costs
from . import llm_bench_records as records_of
from .llm_bench_cells import cells
from .plot_llm_base import compared
from .reading import number

TARGET, SHARE = 1.8, 0.03  # the speedup and the sampler's share that this project set itself
NEAR = 4  # steps of the dtype: two roundings of a row may turn two logits that are not further apart


def answer(records, brief: bool = False) -> list[str]:
    """Sentences made from the records, the most telling first. brief: without those that say again what the figure of methods shows."""
    ordered = compared(records)
    speedups = [speedup_sentence(r) for r in ordered if r["temperature"] == 1 and not (brief and r["batch"] == 1)]
    found = [goals(records), *why(records), *(features_sentence(r) for r in ordered), *(assisted_sentence(r) for r in ordered),
             share_sentence(records), *speedups, *([] if brief else sweep_sentences(records)), *(greedy_sentence(r) for r in ordered),
             *(drift_sentence(r) for r in ordered if r["batch"] == 1 and r["temperature"] == 1), missing(records), stale(records)]
    return [sentence for sentence in found if sentence]


# ---- the goals, and why --------------------------------------------------------------------------------------------------

def goals(records) -> str | None:
    """Was the goal met? At batch 1 and temperature 1, in each path and forward, by the arms with all the runs."""
    said = []
    for record in compared(records):
        most = max((len(arm["runs"]["prompt"]) for arm in record.measured()), default=0)
        found = [(s["median"], arm["draft_len"]) for arm in record.measured()
                 if len(arm["runs"]["prompt"]) == most and (s := _speedup(record, arm))]
        if (record["batch"], record["temperature"]) == (1, 1) and found:
            times, k = max(found)
            said.append(f"{record.forms} {times:.2f}x with K={k} ({'reached' if times >= TARGET else 'not reached'})")
    return f"Goal of {TARGET}x over plain decoding of the same path at batch 1, T=1: {', '.join(said)}." if said else None


def why(records) -> list[str]:
    """For each path: what a step emits and costs, and the acceptance that the goal would take at these costs."""
    return [*(f"{_costs(found)} {_needed(found)}" for found in llm_bench_costs.costs(records)), *filter(None, [drafts(records)])]


def _costs(found) -> str:
    cost = max(found, key=lambda cost: cost.seen)
    k, rate, plain, step = cost.draft_len, cost.acceptance, cost.plain, cost.step
    return (f"Why, in the {cost.record.forms}, with K={k}: a step emits {cost.tokens:.2f} tokens ((1 - a^{k + 1}) / (1 - a) with the "
            f"counted acceptance a = {rate:.3f} is {records_of.expected_tokens(rate, k):.2f}), but takes {cost.step_ms:#.3g} ms, "
            f"{cost.plain_steps:.2f} steps of plain decoding: the target {step['target']:#.3g} ms for {k + 1} tokens ({plain['target']:#.3g} for one), "
            f"{k} draft{'s' * (k > 1)} {step['draft']:#.3g} ms, the sampler {step['sampler']:.2g} ms, the rest {step['rest']:.2g} ms.")


def _needed(found) -> str:
    ks = [cost.draft_len for cost in found]
    among = f"K={ks[0]}" if len(ks) == 1 else f"K={ks[0]} to {ks[-1]}" if len(ks) > 3 else f"K={', '.join(map(str, ks))}"
    best = llm_bench_costs.cheapest(found, TARGET)
    if best is None:
        most = max(cost.speedup(1) for cost in found)
        return f"At these costs no acceptance gives {TARGET}x with {among}: were all drafts accepted, it would be {most:.2f}x."
    at = f"with K={best.draft_len}" + (f", the best of {among}" if len(ks) > 1 else ", the only K measured")
    return (f"At the measured costs the same model needs an acceptance of {best.needed(TARGET):.2f} for {TARGET}x ({at}); "
            f"counted: {best.acceptance:.2f}.")


def drafts(records) -> str | None:
    """What the draft was accepted on held-out texts of its training; None for a draft of another origin."""
    held = records_of.held_out(records[0]) if records else None
    found = [cost.acceptance for costs in llm_bench_costs.costs(records) for cost in costs]
    if not held or not found:
        return None
    return (f"{records[0]['models']['draft']} is accepted {held:.3f} of the time at T=1 on held-out texts like those it was trained on, "
            f"and {min(found):.2f} to {max(found):.2f} behind these prompts.")


def features_sentence(record) -> str | None:
    """What the target's hidden states are worth to the draft: the same weights with and without, for the same prompts and seeds."""
    bare = record.arm("bare")
    ours = bare and next((arm for arm in record.measured() if arm["draft_len"] == bare["draft_len"]), None)
    if not ours or not (s := _speedup(record, ours)) or not (without := _speedup(record, bare)) or not sum(bare["tested"]):
        return None
    gain = records_of.spread(records_of.speedups(ours, bare))
    return (f"{record.title}: with the target's hidden states as features the draft is accepted {records_of.mean_acceptance(ours):.3f} of the time "
            f"and gives {s['median']:.2f}x; the same weights without them {records_of.mean_acceptance(bare):.3f} and {without['median']:.2f}x, "
            f"with K={bare['draft_len']} both (run by run {gain['median']:.2f} times as many tokens/s, {gain['p10']:.2f} to {gain['p90']:.2f}).")


def assisted_sentence(record) -> str | None:
    """On the eager path at batch 1: transformers' own way against ours with as many drafts, by tokens and ms of a step."""
    ours = next(iter(record.measured()), None)
    theirs = ours and record.arm("assisted", draft_len=ours["draft_len"])
    if record["path"] != "eager" or not theirs or not (s := records_of.spread(records_of.speedups(ours, theirs))):
        return None
    tokens = [records_of.kept_per_step(arm) for arm in (theirs, ours)]
    ms = [statistics.median(records_of.run_step_ms(arm)) for arm in (theirs, ours, record.arm("plain"))]
    place = "reached" if s["median"] > 1 else "not reached"
    return (f"Goal of more tokens/s than transformers' assisted generation in the {record.title}: {s['median']:.2f} times as many "
            f"({s['p10']:.2f} to {s['p90']:.2f}), {place}. With K={ours['draft_len']} theirs keeps {tokens[0]:.2f} tokens of a step in "
            f"{ms[0]:.3g} ms, ours {tokens[1]:.2f} in {ms[1]:.3g} ms, plain decoding one in {ms[2]:.3g} ms (medians of runs): "
            f"{_which(tokens, ms)}."
            + (f" Theirs reads {record['models']['draft']} without its features, which transformers' forward does not know of: as a plain model."
               if records_of.with_features(record) else ""))


def _which(tokens, ms) -> str:
    """Which of the two differs more, as ratios."""
    by_tokens, by_ms = tokens[1] / tokens[0], ms[0] / ms[1]
    return ("the difference is rather in what a step costs than in what is accepted" if abs(by_ms - 1) > abs(by_tokens - 1) else
            "the difference is rather in what is accepted than in what a step costs")


def drift_sentence(record) -> str | None:
    """Where plain decoding differs between seeds by more than a tenth: the machine's speed changed, which ratios of the same runs outlive."""
    found = records_of.rates_by_seed(plain) if (plain := record.arm("plain")) else []
    if len(found) < 2 or max(found) < 1.1 * min(found):
        return None
    return (f"{record.title}: the machine's own speed changed while this was recorded: plain decoding {', '.join(map(number, found))} "
            "tokens/s for one seed after the other. Speedups are formed run by run; tokens/s of arms with fewer seeds do not compare.")


# ---- record by record ----------------------------------------------------------------------------------------------------

def speedup_sentence(record) -> str | None:
    """Speculation with the sampler that is measured against plain decoding, with each K of the record."""
    said = [f"with K={arm['draft_len']} {_rate(arm)} tokens/s, {s['median']:.2f} times as many ({s['p10']:.2f} to {s['p90']:.2f})"
            for arm in record.measured() if (s := _speedup(record, arm))]
    plain = record.arm("plain")
    if not said:
        return None
    return f"{record.title}: plain decoding {_rate(plain)} tokens/s; speculation with {plain['sampler']}: {'; '.join(said)}."


def _speedup(record, arm):
    return records_of.spread(records_of.speedups(arm, record.arm("plain")))


def _rate(arm) -> str:
    return number(statistics.median(records_of.rates(arm)))


def share_sentence(records) -> str | None:
    """The samplers' shares of a step of the graph path, and whether that of the measured sampler (the last) is below the goal."""
    chosen = [r for r in records if r["kind"] == "samplers" and r["path"] == "graph" and r["arms"]]
    if not chosen:
        return None
    found = {arm["sampler"]: statistics.median(shares) for arm in chosen[0]["arms"] if (shares := records_of.sampler_shares(arm))}
    said = ", ".join(f"{name} {share:.1%}" for name, share in sorted(found.items(), key=lambda item: -item[1]))
    ours = next((name for name in reversed(found)), None)
    reached = "reached" if ours and found[ours] < SHARE else "not reached"
    return f"Of a step of the {chosen[0].forms} the sampler takes: {said}. The goal of less than {SHARE:.0%} with {ours} is {reached}."


def sweep_sentences(records) -> list[str]:
    """The best K of each sweep, measured and by the model."""
    sweeps = [r for r in records if r["kind"] == "k_sweep" and r.arm("plain") and r.arm("speculation")]
    models = [(record, llm_bench_costs.cost_model(record)) for record in sorted(sweeps, key=lambda r: r.rank)]
    return [f"{record.title}: the best K is {records_of.best_draft_len(record)} as measured and {model['best']} by the model of costs, "
            f"with acceptance {model['acceptance']:.3f}." for record, model in models]


def greedy_sentence(record) -> str | None:
    """At temperature 0: how many texts are those of plain decoding, and how near the two tokens are where the others part."""
    plain, ours = record.arm("plain"), next(iter(record.measured()), None)
    if record["temperature"] != 0 or plain is None or ours is None:
        return None
    same, texts = records_of.equal_texts(ours, plain)
    found = [p for p in record["partings"] if p["arm"] == ours["name"]]
    text = f"{record.title}: {same} of {texts} greedy texts are those of plain decoding, token by token"
    if found:
        worst, wide = max(found, key=lambda p: p["gap"] / p["spacing"]), sum(p["gap"] > NEAR * p["spacing"] for p in found)
        noise = statistics.fmean(p["noise"] ** 2 for p in found) ** 0.5  # of all: one text says little of how far a logit may move
        text += (f"; where the others part, the two tokens' logits are {worst['gap'] / worst['spacing']:.3g} steps of {record['models']['dtype']} "
                 f"apart at most ({worst['gap']:.3g}, where its numbers lie {worst['spacing']:.3g} apart)")
        text += f": {wide} of {len(found)} are no near ties, being more than {NEAR} such steps apart" if wide else ": near ties"
        text += f". Two readings of these texts, whole and token by token, differ by {noise:.2g} a logit (root mean square)"
    return text + "."


def missing(records) -> str | None:
    """Which of the usual cells a GPU's records lack; None on a CPU."""
    if not records or records[0]["environment"]["gpu"] is None:
        return None
    of = lambda cell: (cell["kind"], cell["path"], cell["fused"], cell["batch"], cell["temperature"])
    there = {of(record) for record in records}
    lacking = [str(cell) for cell in cells("any") if of(cell.spec) not in there]
    return f"Not recorded yet: {'; '.join(lacking)}." if lacking else None


def stale(records) -> str | None:
    """Samplers that have another source today."""
    found = sorted({name for r in records for name in r.stale})
    return f"Stale (the source is not the one that was timed): {', '.join(found)}." if found else None
