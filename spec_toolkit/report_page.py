"""The report as one HTML page: figures inside it, no script, no request to anywhere (its own policy forbids them)."""
from __future__ import annotations

import base64
import contextlib
import io
import re
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import matplotlib

from . import blocks, exactness, llm_bench_page, report
from .reading import caption

WIDE = 8.0  # inches: two figures wider than this do not stand side by side
FOLDED = 24  # rows of a table that stand open
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --quiet: #57606a; --line: #d0d7de; --wash: #f6f8fa; --blue: #0072B2; --red: #b3400a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1.2rem clamp(0.8rem, 3vw, 2.5rem) 4rem; color: var(--ink); background: #fff;
       font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.3rem 0 0.6rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.6rem 0 0.5rem; padding-top: 0.9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.3rem 0 0.3rem; }
p, li { max-width: 78ch; }
a { color: var(--blue); }
nav ul { columns: 2 20rem; padding-left: 1.2rem; margin: 0.5rem 0 0; }
.quiet, figcaption { color: var(--quiet); font-size: 0.85rem; }
.stale { color: var(--red); font-weight: 600; font-size: 0.85rem; }
.short li { margin: 0.35rem 0; }
.gpus { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1.2rem 2rem; }
.gpus > div { min-width: 0; } .gpus.stacked { grid-template-columns: minmax(0, 1fr); }
figure { margin: 0.6rem 0 1.2rem; } figcaption { max-width: 90ch; margin-top: 0.3rem; }
.scroll { overflow-x: auto; max-width: 100%; }
figure img { display: block; max-width: 100%; min-width: calc(0.75 * var(--wide)); height: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; margin: 0.5rem 0 1rem; }
th, td { padding: 0.28rem 0.6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { background: var(--wash); font-weight: 600; }
td:first-child { white-space: nowrap; }
td[style*="right"] { white-space: nowrap; }
td:first-child, th:first-child { position: sticky; left: 0; background: #fff; } th, th:first-child { background: var(--wash); }
pre { background: var(--wash); border: 1px solid var(--line); border-radius: 4px; padding: 0.7rem; overflow-x: auto; font-size: 0.8rem; line-height: 1.45; }
details { margin: 0.4rem 0; } summary { cursor: pointer; color: var(--blue); }
@media (max-width: 700px) { th[style*="right"] { min-width: 6rem; } }
@media print { details { display: block; } figure, table { break-inside: avoid; } h2 { break-after: avoid; } body { font-size: 12px; } }
"""
OTHERS = {"other_rungs": "What does each rung change?", "registers": "What does the compiler make of each rung?",  # blocks -> their questions
          "sanitizers": "What do the sanitizers find?", "crosscheck": "Is the clock right?"}
EXACT = {"checks": "Is every sampler exact?", "mutants": "Would it be seen if one were wrong?",  # exactness.BLOCKS -> their questions
         "false_alarms": "How often is an exact one refused?", "power": "How small a bias is seen?"}
LOOPS = {"llm": "What is it worth in a language model?"}
METHOD = """
* **Check, then clock.** Every time here belongs to a sampler whose tokens were compared, on that very problem and in the same process, with
  the float64 reference from the same random bits; each difference must lie inside its own rounding interval. A sampler that fails is not timed.
* **GPU time** is event to event around the replay of a captured graph, the L2 flushed before each replay in the way that the caption names;
  median, with p10 to p90. What an empty launch takes by this clock is shown in the figures, not subtracted.
* **The limit** is a plain streaming read of the same number of bytes, under the same flush, in the same run: what no kernel can beat.
  The bytes are those of the rows that no exact sampler can do without.
* **Whole call**: an eager call with the synchronisation behind it; **host time**: until an eager call is issued.
* **Ratios** are formed within one run only. Two GPUs stand side by side and are not divided.
* **Stale** marks a time whose sampler has another source today than the one that was timed.
"""


def page(sections, folder: Path, hashes: dict | None = None) -> str:
    """The whole page as text. sections: of `report.gather`; folder: where the records are."""
    ladder, rest = [s for s in sections if s.experiment == "ladder"], [s for s in sections if s.experiment != "ladder"]
    experiments = lambda chosen: [_section(s.experiment, s.question, _experiment(s)) for s in chosen]
    body = [_head(sections), _in_short(report.in_short(sections)), _contents([*ladder, *rest]),
            *experiments(ladder), _section("method", "How it was measured", text(METHOD)),
            _section("environment", "On what was it measured?", _environments(sections)), *experiments(rest),
            _loops(folder, hashes), _others(folder, hashes)]
    return (f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content='width=device-width, initial-scale=1'>\n"
            f"<meta http-equiv=Content-Security-Policy content=\"{POLICY}\"><link rel=icon href='data:,'>\n"
            f"<title>spec-toolkit: report</title><style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n")


def text(markdown: str) -> str:
    """Markdown as HTML."""
    import mistune

    made = mistune.create_markdown(plugins=["table"])(markdown)
    return re.sub(r"<table>.*?</table>", lambda found: _table(found[0]), made, flags=re.DOTALL)


def _table(made: str) -> str:
    """In a box that scrolls on a narrow screen; folded if it is long."""
    box, rows = f"<div class=scroll tabindex=0>{made}</div>", made.count("<tr>") - 1
    return box if rows <= FOLDED else f"<details><summary>the table, {rows} rows</summary>{box}</details>"


def image(chart) -> str:
    """A figure as an SVG inside the page, its letters as outlines: it looks the same on every machine."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "report"}), _without_caption(chart):
        chart.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    wide = float(re.search(r'<svg[^>]*?width="([\d.]+)pt"', svg)[1]) * 4 / 3
    data = base64.b64encode(svg.encode()).decode()
    return f'<img style="--wide: {wide:.0f}px" width="{wide:.0f}" alt="{escape(chart.caption_text)}" src="data:image/svg+xml;base64,{data}">'


@contextlib.contextmanager
def _without_caption(chart):
    """The page has the caption as text below the figure, where it is as wide as the screen."""
    captions = [text for text in chart.texts if text.get_text() and text.get_text() == chart.get_supxlabel()]
    for shown in (False, True):
        for text in captions:
            text.set_visible(shown)
            text.set_in_layout(shown)
        if not shown:
            yield


def figure(chart) -> str:
    """A chart with its caption below it."""
    caption = f"<figcaption>{escape(chart.caption_text)}</figcaption>" if chart.caption_text else ""
    return f"<figure><div class=scroll tabindex=0>{image(chart)}</div>{caption}</figure>"


def _section(anchor: str, title: str, body: str) -> str:
    return f"<h2 id='{escape(anchor)}'>{escape(title)}</h2>\n{body}"


def _head(sections) -> str:
    count = sum(len(shown.records) for section in sections for shown in section.shown)
    said = "Every number and figure here is a function of them." if count else "No times are recorded yet: <code>make gpu</code> writes them on a GPU."
    return ("<h1>The verification step of speculative decoding: what was recorded</h1>\n"
            f"<p class=quiet>Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC from {count} records. {said}</p>")


def _in_short(said: dict) -> str:
    return "<div class=gpus>" + "".join(f"<div><h3>{escape(gpu)}</h3><ul class=short>{''.join(f'<li>{escape(one)}</li>' for one in sentences)}</ul></div>"
                                        for gpu, sentences in said.items()) + "</div>"


def _contents(sections) -> str:
    asked = [(s.experiment, s.question) for s in sections]
    about = [("method", "How it was measured"), ("environment", "On what was it measured?")]
    listed = [*asked[:1], *about, *asked[1:], *LOOPS.items(), *EXACT.items(), *OTHERS.items()]
    return "<nav><ul>" + "".join(f"<li><a href='#{escape(anchor)}'>{escape(title)}</a></li>" for anchor, title in listed) + "</ul></nav>"


def _experiment(section) -> str:
    columns = "".join(f"<div>{_one(section, shown)}</div>" for shown in section.shown)
    both, wide = report.side_by_side(section), any(chart.get_figwidth() > WIDE for shown in section.shown for chart in shown.figures.values())
    return f"<p class=quiet>Experiment <code>{escape(section.experiment)}</code></p><div class='gpus{' stacked' * wide}'>{columns}</div>" + (
        f"<h3>The same problems on both</h3>{text(both)}" if both else "")


def _one(section, shown) -> str:
    figures = "".join(map(figure, shown.figures.values()))
    stale = f"<p class=stale>Stale: {escape(', '.join(shown.stale))}. The source is not the one that was timed.</p>" if shown.stale else ""
    problem = f"<p class=stale>Not drawn: {escape(shown.problem)}</p>" if shown.problem else ""
    note = "" if figures else f"<p class=quiet>{escape(caption(shown.records))}</p>"
    return f"<h3>{escape(shown.gpu)}</h3>{stale}{problem}{figures}{note}{text(shown.table)}"


def _environments(sections) -> str:
    found = report.environments(sections)
    keys = list(dict.fromkeys(key for each in found for key in each))
    rows = "".join(f"<tr><th>{escape(key.replace('_', ' '))}</th>{''.join(f'<td>{escape(str(each.get(key)))}</td>' for each in found)}</tr>" for key in keys)
    return f"<div class=scroll tabindex=0><table>{rows}</table></div>" if rows else "<p>Nothing was recorded on a GPU.</p>"


def _loops(folder: Path, hashes: dict | None) -> str:
    """A language model decoded in several ways, on each GPU that has records of it."""
    said = []
    for gpu, records in llm_bench_page.gpus(folder, hashes).items():
        figures, sentences, tables = llm_bench_page.shown(records)
        drawn = "".join(f"<figure><div class=scroll tabindex=0>{image(chart)}</div></figure>" for chart in figures.values())
        said.append(f"<h3>{escape(records[0]['environment']['gpu'] or gpu.name)}</h3>{text(sentences)}{drawn}{text(tables)}")
    (anchor, title), = LOOPS.items()
    return _section(anchor, title, "\n".join(said) or text(llm_bench_page.EMPTY))


def _others(folder: Path, hashes: dict | None) -> str:
    """What is no experiment's: exactness, the rungs, the compiler's numbers, the sanitizers, the cross-check of the clock."""
    said = {title: (name, exactness.BLOCKS[name](folder)) for name, title in EXACT.items()}
    said |= {title: (name, re.sub("^## ", "### ", blocks.block(folder, name, folder, hashes)[0], flags=re.MULTILINE)) for name, title in OTHERS.items()}
    return "\n".join(_section(name, title, text(markdown)) for title, (name, markdown) in said.items())
