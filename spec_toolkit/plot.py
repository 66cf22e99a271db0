"""Records -> figures and tables. Sees only records (dicts as `results.load_records` gives them), never a sampler.

Colours are Okabe and Ito's, told apart by colour-blind readers; marker, line style and hatching say the same again in grey
print. Medians with p10 to p90. A stale record is hatched and marked "(stale)". Ratios are formed only within one run_id.
"""
from __future__ import annotations

import io
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS, DASHES = "osD^vP*X", ("-", "--", "-.", (0, (3, 1, 1, 1, 1, 1)))
METRICS = {"gpu_us": "GPU time (graph replay, cold L2), µs", "call_us": "whole eager call with its synchronisation, µs",
           "host_us": "host time to issue an eager call, µs"}
PROBLEM_COLUMNS = {"batch": "B", "draft_len": "K", "vocab": "V", "dtype": "rows", "acceptance_requested": "acceptance"}


class Chart(Figure):
    """A matplotlib Figure that needs no pyplot, shows itself in a notebook and carries its caption."""
    caption_text = ""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
        return buffer.getvalue()


def _chart(width: float, height: float):
    chart = Chart(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(chart)
    axes = chart.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return chart, axes


def _some(records) -> list:
    records = list(records)
    if not records:
        raise ValueError("no records to draw: time on a GPU first (make gpu), or give another folder or experiment")
    return records


def is_stale(record) -> bool:
    return bool(getattr(record, "stale", False))


def label(record) -> str:
    """The sampler's name, marked when its source is not the one that ran."""
    return record["sampler"] + (" (stale)" if is_stale(record) else "")


def value(record, metric: str = "gpu_us", what: str = "median"):
    """record[metric_what], or None. The limits' metrics (stream_read_us, empty_launch_us) are found too."""
    key = f"{metric}_{what}"
    return record[key] if key in record else record.get("limits", {}).get(key)


def same_problem(a, b) -> bool:
    """Same sizes, rows, seed and shape, and the same flush."""
    keys = (*PROBLEM_COLUMNS, "kind", "draft_rows", "seed", "shape")
    return a.get("flush") == b.get("flush") and all(a["problem"].get(k) == b["problem"].get(k) for k in keys)


def speedup(record, records, baseline: str, metric: str = "call_us"):
    """How many times faster than the baseline in the same run on the same problem; None if there is no such pair."""
    for other in records:
        if other["sampler"] == baseline and other["run_id"] == record["run_id"] and same_problem(record, other):
            ours, theirs = value(record, metric), value(other, metric)
            return theirs / ours if ours and theirs else None
    return None


def _distinct(records, key) -> list:
    found = []
    for record in records:
        if (item := key(record)) not in found and item is not None:
            found.append(item)
    return found


def _range(values) -> str:
    values = sorted(values)
    return ", ".join(map(str, values)) if len(values) < 4 else f"{values[0]} to {values[-1]}"


def _lengths(record) -> str:
    k = record["problem"]["draft_len"]
    return str(k) if not isinstance(k, list) else f"{min(k)}-{max(k)}" if k else "0"


def caption(records) -> str:
    """Hardware, dtype, flush, sizes, samples, commit and date: what a number needs beside it."""
    records = _some(records)
    gpu = ", ".join(_distinct(records, lambda r: r["environment"].get("gpu"))) or "no GPU"
    sizes = "; ".join(f"{short}={_range(_distinct(records, lambda r: r['problem'][key]))}"
                      for key, short in (("batch", "B"), ("vocab", "V")))
    parts = [gpu, f"{sizes}; K={_range(_distinct(records, _lengths))}",
             "/".join(_distinct(records, lambda r: r["problem"]["dtype"])) + " " +
             "/".join(_distinct(records, lambda r: "probabilities" if r["problem"]["kind"] == "probs" else "logits"))]
    acceptance = _distinct(records, lambda r: r["problem"].get("acceptance_measured"))
    if acceptance:
        low, high = min(acceptance), max(acceptance)
        parts.append(f"measured acceptance {low:.2f}" + (f" to {high:.2f}" if round(high - low, 2) else ""))
    flushes = _distinct(records, lambda r: r.get("flush"))
    if flushes:
        parts.append("L2 flushed by " + " or ".join("reading" if f == "read" else "writing" for f in flushes))
    counts = _distinct(records, lambda r: len(r.get("gpu_us_samples") or r.get("call_us_samples") or []) or None)
    if counts:
        parts.append(f"median and p10 to p90 of {_range(counts)} samples")
    torch, cuda = records[0]["environment"].get("torch"), records[0]["environment"].get("driver")
    parts.append(f"torch {torch}" + (f", driver {cuda}" if cuda else ""))
    commit = _distinct(records, lambda r: (r["environment"].get("git") or "")[:9] or None)
    parts.append(_range(_distinct(records, lambda r: r["created"][:10])) + (f", commit {_range(commit)}" if commit else ""))
    return "; ".join(parts) + "."


def _finish(chart: Chart, records, note: str = "", width: int = 105) -> Chart:
    chart.caption_text = " ".join(filter(None, (note, caption(records))))
    chart.supxlabel("\n".join(textwrap.wrap(chart.caption_text, width)), x=0.01, ha="left", fontsize=7.5, color="#333333")
    return chart


def _slowest_first(records, metric: str = "call_us") -> list:
    return sorted(records, key=lambda r: -(value(r, metric) or value(r, "gpu_us") or 0))


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}"


def bars(records, baseline: str = "python_loop") -> Chart:
    """One problem, all its samplers: whole call and GPU time on a log axis, the limit, speedup of the call.

    The call is what all samplers have (a sampler that synchronises has no GPU time), so the speedup is of calls.
    """
    records = _slowest_first(r for r in _some(records) if value(r, "call_us"))
    if not records:
        raise ValueError("these records hold checks but no times: bars needs times measured on a GPU")
    if not all(same_problem(records[0], r) for r in records):
        raise ValueError("bars shows one problem, these records hold several: filter them, or use lines or heatmap")
    chart, axes = _chart(7.2, 1.7 + 0.55 * len(records))
    right = max(value(r, "call_us", "p90") for r in records)
    for row, record in enumerate(records):
        faster = speedup(record, records, baseline)
        text = "" if faster is None else f"  {_number(faster)}x" if record["sampler"] != baseline else "  1x (baseline)"
        _bar(axes, row - 0.19, record, "call_us", SKY, text)
        _bar(axes, row + 0.19, record, "gpu_us", BLUE, "")
    for colour, text in ((SKY, "whole eager call, synchronised"), (BLUE, "on the GPU (graph replay)")):
        axes.barh([0], [0], color=colour, edgecolor=BLACK, linewidth=0.5, label=text)
    floors = [v for r in records if (v := value(r, "stream_read_us"))]
    if floors:
        axes.axvline(np.median(floors), color=RED, linestyle="--", linewidth=1.3,
                     label=f"limit: plain read of the same bytes, {_number(float(np.median(floors)))} µs")
    low = min([*floors, *(v for r in records for m in ("gpu_us", "call_us") if (v := value(r, m)))])
    axes.set(xscale="log", xlim=(low / 2, right * 6), yticks=range(len(records)), yticklabels=[label(r) for r in records],
             xlabel=f"µs (log scale); 2x: the call of {baseline} takes twice as long, same run")
    axes.invert_yaxis()
    chart.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return _finish(chart, records)


def _bar(axes, y: float, record, metric: str, colour: str, text: str) -> None:
    middle = value(record, metric)
    if middle is None:
        axes.annotate("no GPU time: it synchronises with the host" if "synchronises" in str(record.get("gpu_us_missing"))
                      else "no GPU time", (0.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=7,
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=5)
        return
    low, high = value(record, metric, "p10"), value(record, metric, "p90")
    hatch = "////" if is_stale(record) else None
    axes.barh(y, middle, height=0.36, color=colour, edgecolor=BLACK, linewidth=0.5, hatch=hatch)
    axes.errorbar(middle, y, xerr=[[max(0, middle - low)], [max(0, high - middle)]], color=BLACK, capsize=2, linewidth=1)
    axes.annotate(f" {_number(middle)}{text}", (high, y), va="center", fontsize=8)


def lines(records, x: str = "batch", metric: str = "gpu_us", baseline: str | None = None) -> Chart:
    """One line per sampler over x ("batch" or "vocab"), with the limit; with a baseline, speedup over it instead of time.

    ValueError if two records of a sampler share an x: filter to one K, dtype, acceptance and flush first.
    """
    if x not in ("batch", "vocab"):
        raise ValueError(f"x={x!r}: accepted are 'batch' and 'vocab'")
    records = _some(records)
    chart, axes = _chart(7.2, 4.6)
    for place, name in enumerate(_distinct(records, lambda r: r["sampler"])):
        mine = sorted((r for r in records if r["sampler"] == name), key=lambda r: r["problem"][x])
        _one_each(mine, x, name)
        style = dict(color=CYCLE[place % len(CYCLE)], marker=MARKERS[place % len(MARKERS)],
                     linestyle=DASHES[place // 2 % len(DASHES)], markersize=5, linewidth=1.4)
        _line(axes, mine, records, x, metric, baseline, style)
    floors = {r["problem"][x]: v for r in records if (v := value(r, "stream_read_us"))}
    if floors and metric == "gpu_us" and not baseline:
        at = sorted(floors)
        axes.plot(at, [floors[i] for i in at], color=BLACK, linestyle=":", linewidth=2,
                  label="limit: plain read, same bytes")
    if baseline:
        axes.axhline(1, color=BLACK, linewidth=0.8)
    ticks = sorted({r["problem"][x] for r in records})
    axes.set(xscale="log", yscale="log", xlabel={"batch": "batch B", "vocab": "vocabulary V"}[x],
             ylabel=f"times faster than {baseline} ({metric.removesuffix('_us')} time)" if baseline else METRICS[metric])
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks], rotation=0 if x == "batch" else 20)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    chart.legend(loc="outside right upper", fontsize=8, frameon=False)
    return _finish(chart, records)


def _one_each(records, x: str, name: str) -> None:
    at = [r["problem"][x] for r in records]
    if len(set(at)) != len(at):
        raise ValueError(f"{name} has several records at the same {x} ({at}): filter to one K, dtype, acceptance and flush")


def _line(axes, mine, records, x, metric, baseline, style) -> None:
    points = [(r["problem"][x], r, speedup(r, records, baseline, metric) if baseline else value(r, metric)) for r in mine]
    points = [p for p in points if p[2] is not None]
    if not points:
        return
    at, shown = [p[0] for p in points], [p[2] for p in points]
    stale = any(is_stale(p[1]) for p in points)
    axes.plot(at, shown, label=mine[0]["sampler"] + (" (stale)" if stale else ""),
              markerfacecolor="white" if stale else style["color"], **style)
    if not baseline:
        axes.fill_between(at, [value(p[1], metric, "p10") for p in points], [value(p[1], metric, "p90") for p in points],
                          color=style["color"], alpha=0.2, linewidth=0, hatch="////" if stale else None)


def heatmap(records, baseline: str, sampler: str, metric: str = "gpu_us") -> Chart:
    """Speedup of sampler over baseline, batch down, vocabulary across; white is even, crosses are slower, blanks not run."""
    records = _some(records)
    ours = [r for r in _some(r for r in records if r["sampler"] == sampler)]
    cells = {}
    for record in ours:
        where = record["problem"]["batch"], record["problem"]["vocab"]
        if where in cells:
            raise ValueError(f"{sampler} has several records at batch, vocab = {where}: filter to one K, dtype and flush")
        cells[where] = speedup(record, records, baseline, metric), is_stale(record)
    batches, vocabs = (sorted({where[i] for where in cells}) for i in (0, 1))
    grid = np.array([[cells.get((b, v), (None, 0))[0] or np.nan for v in vocabs] for b in batches], dtype=float)
    chart, axes = _chart(2.4 + 1.0 * len(vocabs), 1.9 + 0.5 * len(batches))
    most = max(0.1, np.nanmax(np.abs(np.log2(grid)), initial=0.1))
    image = axes.imshow(np.log2(grid), cmap="PuOr_r", norm=TwoSlopeNorm(0, -most, most), aspect="auto")
    for (row, column), times in np.ndenumerate(grid):
        _cell(axes, row, column, times, cells.get((batches[row], vocabs[column]), (None, False))[1], most)
    axes.set_xticks(range(len(vocabs)), [f"{v:,}" for v in vocabs])
    axes.set_yticks(range(len(batches)), batches)
    axes.set(xlabel="vocabulary V", ylabel="batch B")
    axes.set_title(f"{sampler}: times faster than {baseline} ({metric.removesuffix('_us')} time, same run)", fontsize=9)
    bar = chart.colorbar(image, ax=axes, format=lambda v, _: f"{2 ** v:.3g}x")
    bar.ax.tick_params(labelsize=8)
    return _finish(chart, [r for r in records if r["sampler"] in (sampler, baseline)], width=int(14 * (2.4 + len(vocabs))))


def _cell(axes, row, column, times, stale, most) -> None:
    if np.isnan(times):
        axes.text(column, row, "not run", ha="center", va="center", fontsize=7, color="#666666")
        return
    text = f"{times:.3g}x" + (" ×" if times < 1 else "") + ("\n(stale)" if stale else "")
    dark = abs(np.log2(times)) > 0.6 * most
    axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else BLACK)
    if stale:
        axes.add_patch(Rectangle((column - .5, row - .5), 1, 1, fill=False, hatch="///", linewidth=0,
                                 edgecolor="#888888"))


def save(figure: Figure, path) -> list[Path]:
    """Write path.png (150 dpi) and path.svg, the same bytes for the same records; returns both paths."""
    stem = Path(path).with_suffix("") if Path(path).suffix in (".png", ".svg") else Path(path)
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    with matplotlib.rc_context({"svg.hashsalt": stem.name, "svg.fonttype": "none"}):
        figure.savefig(written[0], dpi=150, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(written[1], bbox_inches="tight", metadata={"Date": None})
    return written


def table(records, baseline: str = "python_loop", metric: str = "call_us") -> str:
    """A Markdown table, slowest first within each problem, with the speedup of `metric` over the baseline of the same run.

    "of the limit" = a plain streaming read of the same bytes in the same run / the sampler's GPU time.
    """
    records = _some(records)
    varying = [k for k in (*PROBLEM_COLUMNS, "flush") if len(_distinct(records, lambda r: _column(r, k))) > 1]
    ordered = sorted(_slowest_first(records), key=lambda r: [_column(r, k).rjust(12) for k in varying])
    head = [PROBLEM_COLUMNS.get(k, k) for k in varying]
    head += ["sampler", "GPU µs (p10 to p90)", "whole call µs (p10 to p90)", "host µs",
             f"speedup ({metric.removesuffix('_us')})", "of the limit", "check"]
    rows = [_row(r, records, varying, baseline, metric) for r in ordered]
    rule = ["---" if i <= len(varying) else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows)) + "\n"


def _column(record, key: str) -> str:
    return _lengths(record) if key == "draft_len" else str(record["flush"] if key == "flush" else record["problem"].get(key))


def _row(record, records, varying, baseline, metric) -> list[str]:
    faster, gpu, floor = speedup(record, records, baseline, metric), value(record), value(record, "stream_read_us")
    host = value(record, "host_us")
    return [*(_column(record, k) for k in varying), label(record), _spread(record, "gpu_us"), _spread(record, "call_us"),
            "–" if host is None else _number(host), "–" if faster is None else f"{faster:.2f}x",
            f"{floor / gpu:.0%}" if floor and gpu else "–", "pass" if record["check"].get("passed") else "FAIL"]


def _spread(record, metric: str) -> str:
    if value(record, metric) is None:
        return "–"
    middle, low, high = (_number(value(record, metric, what)) for what in ("median", "p10", "p90"))
    return f"{middle} ({low} to {high})"
