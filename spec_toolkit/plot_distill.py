"""Figures of a distillation, from its provenance: what the draft learned, and how its acceptance on held-out texts rose."""
from __future__ import annotations

import textwrap

from .chart import BLUE, GREEN, ORANGE, RED, Chart
from .plot_step import panels
from .tables import markdown


def hardware(said: dict) -> str:
    """One line: what was trained, on what, for how long, on how many tokens."""
    where, recipe = said["environment"], said["recipe"]
    on = (f"{said['processes']} x " if said["processes"] > 1 else "") + (where["gpu"] or f"a CPU ({where['platform']})")
    return (f"{said['layers']} of {said['target']['layers']} layers of {said['target']['name'] or 'the target'}, "
            f"{said['trained_parameters'] / 1e6:.3g} M trained parameters; {on}, torch {where['torch']}; {said['seconds']:.0f} s, "
            f"{said['steps']:,} steps of {recipe['rows'] * said['processes']} texts of {recipe['length']} tokens "
            f"({said['tokens'] / 1e6:.3g} M read, "
            f"{said['tokens_sampled'] / 1e6:.3g} M of the target's own drawn for it); "
            f"{recipe['optimizer']}, seed {said['seed']}" + ("" if said["finished"] else "; cut off before its end"))


def curve(said: dict) -> Chart:
    """The loss's two parts over tokens, and acceptance on held-out texts over seconds, by temperature."""
    chart, (left, right) = panels(2, width=4.8, height=3.8)
    trained = [point for point in said["curve"] if point["train_kl"] is not None]
    tokens = [point["tokens"] / 1e6 for point in trained]
    lines = (("train_total_variation", "total variation", BLUE, "o"), ("train_kl", "KL, nats", ORANGE, "s"))
    for name, label, colour, marker in lines:
        left.plot(tokens, [point[name] for point in trained], color=colour, marker=marker, markersize=3, label=label)
    left.set(xlabel="tokens read, millions", ylabel="mean over training texts (log scale)", yscale="log")
    left.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
    left.yaxis.set_minor_formatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in "235" else "")
    seconds = [point["seconds"] for point in said["curve"]]
    for heat, colour, marker in zip(said["curve"][0]["acceptance"], (RED, GREEN), "D^"):
        values = [point["acceptance"][heat] for point in said["curve"]]
        right.plot(seconds, values, color=colour, marker=marker, markersize=3, label=f"temperature {heat}: {values[-1]:.3f} at last")
    right.set(xlabel="seconds, sampling included", ylabel="acceptance on held-out texts", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    chart.caption_text = f"{hardware(said)}. Acceptance of the curve: on {said['curve_texts']} of the held-out texts."
    chart.supxlabel("\n".join(textwrap.wrap(chart.caption_text, 125)), x=0.01, ha="left", fontsize=7.5, color="#333333")
    return chart


def table(said: dict) -> str:
    """Markdown: acceptance of the weights as they were written, by temperature, beside what they had when the training began."""
    rows = [[heat, f"{said['curve'][0]['acceptance'][heat]:.3f}", f"{m['acceptance']:.3f} ± {m['standard_error']:.3f}",
             f"{m['same_likeliest_word']:.0%}", f"{m['tokens']:,}"] for heat, m in said["acceptance"].items()]
    return markdown(["temperature", "at first", "acceptance", "same likeliest word", "held-out tokens"], rows)


def depths(said: dict) -> str:
    """Markdown: acceptance by kind of text and temperature, of each draft of a step, and of the first one without features."""
    plain, rows = said["acceptance_without_features"] or {}, []
    for kind, of_kind in said["acceptance_by_kind"].items():
        for heat, by_depth in of_kind.items():
            rows.append([kind, heat, *(f"{m['acceptance']:.3f} ± {m['standard_error']:.3f}" for m in by_depth),
                         *([f"{plain[kind][heat][0]['acceptance']:.3f}"] if plain else [])])
    drafts = [f"draft {d}" for d in range(1, said["recipe"]["depth"] + 1)]
    return markdown(["tokens", "temperature", *drafts, *["draft 1 without features"] * bool(plain)], rows)
