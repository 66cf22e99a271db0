"""Sliders for batch, vocabulary and acceptance over one sampler: what a step does, and how fast it is beside the others.

On a GPU each setting is run and timed, with its check. Without one the step is run on the CPU, cut to a size that answers at
once, and the times are those of the nearest recorded problem; the figure's titles say which. It works under papermill too:
the first picture is drawn before anything is displayed, and a slider set from code draws as one moved by hand.
"""
from __future__ import annotations

import html
import math

import ipywidgets
import torch

from . import bench, plot_step, reading, results
from .sampler import load_sampler
from .synthetic import make_problem

BATCHES, VOCABS = (1, 2, 4, 8, 16, 32, 64, 128, 256), (1024, 4096, 32000, 128256, 151936)
HERE_BATCH, HERE_VOCAB = 16, 2048  # at most, on a machine without a GPU
REPEATS, SECONDS = 30, 0.2         # of a time taken while a slider waits


def nearest(records, batch: int, vocab: int, draft_len: int = 8) -> list:
    """The records of the recorded problem nearest to these sizes (as ratios), of those with a GPU time and one K; [] if there are none."""
    timed = [r for r in records if reading.value(r) and isinstance(r["problem"]["draft_len"], int)]
    apart = lambda r, key, wanted: abs(math.log((r["problem"][key] + 1) / (wanted + 1)))
    far = lambda r: (apart(r, "batch", batch) + apart(r, "vocab", vocab) + apart(r, "draft_len", draft_len), r["run_id"])
    best = min(timed, key=far, default=None)
    return [r for r in timed if best and far(r) == far(best) and reading.same_problem(r, best)]


class Explorer(ipywidgets.VBox):
    """`batch`, `vocab`, `acceptance`: the sliders; `picture`: the figure as PNG; `sentence`: what it says. `problem` is the last one made."""

    def __init__(self, sampler, records=(), others=(), draft_len: int = 8, batch: int = 8, vocab: int = 32000, acceptance: float = 0.7):
        self.sampler, self.records, self.draft_len = sampler, list(records), draft_len
        self.others = [load_sampler(name) for name in others]
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        slider = lambda name, options, value: ipywidgets.SelectionSlider(
            options=[(f"{v:,}", v) for v in sorted({*options, value})], value=value, description=name, continuous_update=False, layout={"width": "420px"})
        self.batch, self.vocab = slider("batch", BATCHES, batch), slider("vocabulary", VOCABS, vocab)
        self.acceptance = ipywidgets.FloatSlider(value=acceptance, min=0, max=1, step=0.05, description="acceptance", continuous_update=False, layout={"width": "420px"})
        self.picture, self.sentence = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"}), ipywidgets.HTML()
        for each in (self.batch, self.vocab, self.acceptance):
            each.observe(self.draw, "value")
        self.draw()
        super().__init__([self.batch, self.vocab, self.acceptance, self.picture, self.sentence])

    def draw(self, _=None) -> None:
        """Run the step of these settings and draw it; a failure is shown in the sentence, and the sliders stay."""
        try:
            chart, said = self._drawn()
            self.picture.value, self.sentence.value = chart._repr_png_(), html.escape(said)
        except Exception as error:  # noqa: BLE001 (out of memory, a kernel that fails its check: say so, and let another setting be tried)
            self.sentence.value = f"<b>{html.escape(type(error).__name__)}</b>: {html.escape(str(error)[:600])}"

    def _drawn(self):
        batch, vocab = self.batch.value, self.vocab.value
        here = (batch, vocab) if self.device == "cuda" else (min(batch, HERE_BATCH), min(vocab, HERE_VOCAB))
        logits = getattr(self.sampler, "input", "probs") == "logits"
        self.problem = make_problem(here[0], self.draft_len, here[1], self.acceptance.value, device=self.device, logits=logits)
        accepted = self.sampler(self.problem).num_accepted.tolist()
        records, where = self._times(batch, vocab)
        chart, panels = plot_step.panels(2 if records else 1, height=2.0 + 0.28 * max(4, min(here[0], plot_step.LEADING)))
        cut = f"\n(on the CPU: {here[0]} requests, {here[1]:,} ids)" if here != (batch, vocab) else ""
        plot_step.outcome(panels[0], self.problem.draft_len, accepted, cut)
        if records:
            plot_step.race(panels[1], records, where, self.sampler.name)
        each = (sum(accepted) + len(accepted)) / max(1, len(accepted))
        return chart, f"{self.sampler.name}: {each:.2f} tokens for each request and step, with a measured acceptance of {self.problem.acceptance or 0:.2f}. {where[0].upper() + where[1:]}."

    def _times(self, batch: int, vocab: int):
        """(records of one problem, where they are from)."""
        if self.device == "cuda":
            timings = bench.compare([self.sampler, *self.others], self.problem, REPEATS, seconds=SECONDS)
            made = [results.make_record("explore", s, self.problem, timings[s.name].check, timings[s.name]) for s in (self.sampler, *self.others)]
            return made, f"timed now: {reading.sizes(made[0])}, {made[0]['environment']['gpu']}"
        found = nearest(self.records, batch, vocab, self.draft_len)
        return found, (f"recorded on {found[0]['environment']['gpu']}: {reading.sizes(found[0])}" if found
                       else "no GPU here and no record to show: no times")
