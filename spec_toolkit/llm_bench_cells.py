"""What is measured of decoding loops: cells, each one comparison whose arms take turns at every prompt, most valuable first.

kind       question                                       arms
compare    how fast, and by how much?                     plain; speculation by the Python loop and by the best rung; "bare": the latter by
                                                          the same draft without its features; transformers' own
samplers   what share of a step is each sampler's?        speculation, one sampler each
k_sweep    how many drafts are best?                      plain; speculation with K = 1 to 8

A path is eager (llm.py: launched call by call, so a token costs the host tens of ms and few tokens must do) or graph (graph_decoder.py),
there with the forward of transformers or one of ours with few launches (`fused`), the same for all arms of a cell. Cells do not depend on
which others are chosen, so that several processes, each on a GPU of its own, may run some each.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, replace

PATHS = ("eager", "graph")
KINDS = ("compare", "samplers", "k_sweep")
FUSED = ("both", "draft", "none")
FORWARDS = FUSED[:2]  # a draft with features has no other
DRAFT_LEN, BEST_LENS = 4, {"both": 3, "draft": 5}  # drafts of a step; in comparisons of a forward, what was best in the sweep of its K
SAMPLERS = ("python_loop", "torch_vectorised", "torch_compile", "v1", "v2", "v9")  # then the one that is measured
TOKENS = {"eager": 16, "graph": 96}
EAGER_PROMPTS, FEW_PROMPTS = 20, 12  # at most, one at a time
ASSISTED_TOKENS = 16  # of transformers' own way, which is eager, in a cell of the graph path


@dataclass(frozen=True)
class Arm:
    """One way to decode. method: plain, speculation, bare, assisted. draft_len None: as transformers adapts it. tokens, seeds None: the cell's."""
    method: str
    sampler: str | None = None
    draft_len: int | None = None
    tokens: int | None = None
    seeds: int | None = None

    def __str__(self) -> str:
        if self.method == "assisted":
            return "transformers' assisted, " + ("adaptive K" if self.draft_len is None else f"K={self.draft_len}")
        without = " without features" if self.method == "bare" else ""
        return self.method if self.method == "plain" else f"speculation{without}, {self.sampler}, K={self.draft_len}"


@dataclass(frozen=True)
class Cell:
    """prompts, seeds: how many of each; tokens: new tokens of a run, at most; fused: none, draft or both, of the graph path."""
    kind: str
    path: str
    batch: int
    temperature: float
    tokens: int
    prompts: int
    seeds: int
    arms: tuple[Arm, ...]
    fused: str | None = None

    def __str__(self) -> str:
        return f"{self.path} {self.kind} B={self.batch} T={self.temperature:g}" + (f" fused={self.fused}" if self.fused else "")

    @property
    def spec(self) -> dict:
        """As the record has it."""
        return asdict(self) | {"arms": [asdict(arm) for arm in self.arms]}

    def of(self, arm: Arm) -> tuple[int, int]:
        """(tokens of a run, seeds) of one of its arms."""
        return arm.tokens or self.tokens, min(arm.seeds or self.seeds, self.seeds)


def cells(best: str, draft_len: int | None = None, prompts: int = 24, seeds: int = 3, paths=PATHS, kinds=KINDS, tokens=None, others=SAMPLERS,
          longest: int = 8, fused=FORWARDS, batches=None, temperatures=None, features: bool = False) -> list[Cell]:
    """The cells of these paths, kinds, forwards of the graph path, batches and temperatures (None: all). best: the sampler that is measured;
    draft_len: None: BEST_LENS in comparisons, else DRAFT_LEN; tokens: {path: new tokens}, else TOKENS. features: the draft takes them: an arm more, without."""
    tokens = TOKENS | (tokens or {})
    made = lambda path, k: _of(path, best, k, draft_len or DRAFT_LEN, prompts, seeds, tokens[path], others, longest, features)
    compared = lambda forward: draft_len or BEST_LENS.get(forward, DRAFT_LEN)
    graph = {forward: [replace(cell, fused=forward) for cell in made("graph", compared(forward)) if forward == "both" or _is_usual(cell)]
             for forward in FUSED}
    graph["both"] = [_with_assisted(cell, compared("both")) if cell.kind == "compare" and cell.batch == 1 and cell.temperature != 0.7 else cell
                     for cell in graph["both"]]
    ranked = sorted((cell for cell in (*graph["both"], *graph["draft"], *made("eager", draft_len or DRAFT_LEN), *graph["none"])), key=_rank)
    return [cell for cell in ranked if cell.path in paths and cell.kind in kinds and cell.fused in (None, *fused)
            and cell.batch in (batches or (cell.batch,)) and cell.temperature in (temperatures or (cell.temperature,))]


def _is_usual(cell) -> bool:
    """Worth another forward: what the goal asks, eight requests, how many drafts are best, and whether greedy texts are the same."""
    return cell.kind != "samplers" and cell.temperature in (0.0, 1.0)


def _rank(cell) -> int:
    """The most valuable first."""
    places = [("compare", 1, 1.0), ("samplers", 1, 1.0), ("k_sweep", 1, 1.0)]
    place = (cell.kind, cell.batch, cell.temperature)
    return places.index(place) if place in places else len(places) + (cell.temperature < 1) + (cell.temperature == 0.7)


def _with_assisted(cell, draft_len) -> Cell:
    few = min(ASSISTED_TOKENS, cell.tokens)
    return replace(cell, arms=(*cell.arms, Arm("assisted", None, draft_len, tokens=few, seeds=1)))


def _of(path, best, draft_len, usual, prompts, seeds, tokens, others, longest, features) -> list[Cell]:
    """The cells of a path, of the graph path without a forward yet."""
    graph, plain, ours = path == "graph", Arm("plain", best), Arm("speculation", best, draft_len)
    loop = Arm("speculation", "python_loop", draft_len)
    more = (Arm("speculation", best, draft_len + 2, seeds=1), *([Arm("bare", best, draft_len, seeds=1)] if features else []))
    assisted = (Arm("assisted", None, draft_len), Arm("assisted", None, None, seeds=1))
    alone = Cell("compare", path, 1, 1.0, tokens, prompts if graph else min(EAGER_PROMPTS, prompts), seeds,
                 (plain, replace(loop, seeds=1), ours, *(more if graph else assisted)))
    few = replace(alone, seeds=1, prompts=min(FEW_PROMPTS, prompts), arms=(plain, ours))
    samplers = tuple(Arm("speculation", name, usual) for name in dict.fromkeys((*others, best)))
    found = [alone, replace(few, kind="samplers", prompts=min(few.prompts, 6 if graph else 4), arms=samplers)]
    if prompts > 1:
        found += [replace(alone, batch=min(8, prompts), prompts=prompts, seeds=seeds, arms=(plain, loop, ours))]
    if graph:
        sweep = (plain, *(Arm("speculation", best, k) for k in range(1, longest + 1)))
        found += [replace(few, kind="k_sweep", arms=sweep), replace(alone, temperature=0.7, seeds=1, arms=(plain, ours))]
    return [*found, replace(alone, temperature=0.0, seeds=1, arms=(plain, ours, *(() if graph else assisted[:1])))]
