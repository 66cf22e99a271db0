"""What is measured of decoding loops: cells, each one comparison whose arms take turns at every prompt, most valuable first.

kind       question                                       arms
compare    how fast, and by how much?                     plain; speculation by the Python loop and by the best rung; transformers' own
samplers   what share of a step is each sampler's?        speculation, one sampler each
k_sweep    how many drafts are best?                      plain; speculation with K = 1 to 8

A path is eager (llm.py: launched call by call, so a token costs the host tens of ms and few tokens must do) or graph (graph_decoder.py),
there with the forward of transformers or one of ours with few launches (`fused`), the same for all arms of a cell.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, replace

PATHS = ("eager", "graph")
KINDS = ("compare", "samplers", "k_sweep")
SAMPLERS = ("python_loop", "torch_vectorised", "torch_compile", "v1", "v2", "v10")  # then the one that is measured
TOKENS = {"eager": 16, "graph": 96}
EAGER_PROMPTS, SWEEP_PROMPTS = 20, 12  # at most, one at a time
ASSISTED_TOKENS = 16  # of transformers' own way, which is eager, in a cell of the graph path


@dataclass(frozen=True)
class Arm:
    """One way to decode. method: plain, speculation, assisted. draft_len None: as transformers adapts it. tokens, seeds None: the cell's."""
    method: str
    sampler: str | None = None
    draft_len: int | None = None
    tokens: int | None = None
    seeds: int | None = None

    def __str__(self) -> str:
        if self.method == "assisted":
            return "transformers' assisted, " + ("adaptive K" if self.draft_len is None else f"K={self.draft_len}")
        return self.method if self.method == "plain" else f"speculation, {self.sampler}, K={self.draft_len}"


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


def cells(best: str, draft_len: int = 4, prompts: int = 24, seeds: int = 3, paths=PATHS, kinds=KINDS, tokens=None,
          others=SAMPLERS, longest: int = 8, fused: str = "both") -> list[Cell]:
    """The cells of these paths and kinds. best: the sampler that is measured; tokens: {path: new tokens}, else TOKENS. fused: of the
    graph path; where it is not none, the last cells show what it is worth."""
    tokens = TOKENS | (tokens or {})
    found = {(kind, path): _of(kind, path, best, draft_len, prompts, seeds, tokens[path], others, longest)
             for path in PATHS for kind in KINDS}
    order = [("compare", 0), ("compare", 1), ("samplers", 0), ("k_sweep", 0), ("compare", 2), ("compare", 3)]
    made = [found[kind, path][place] for kind, place in order for path in ("graph", "eager")
            if kind in kinds and path in paths and place < len(found[kind, path])]
    made = [replace(cell, fused=fused) if cell.path == "graph" else cell for cell in made]
    if not made or made[0].kind != "compare" or made[0].fused in (None, "none"):
        return made
    # a dearer target pays for longer drafts
    arms = made[0].arms[:1] + tuple(replace(made[0].arms[2], draft_len=draft_len + more) for more in (0, 2))
    return made + [replace(made[0], fused=other, seeds=1, arms=arms) for other in ("draft", "none") if other != fused]


def _of(kind, path, best, draft_len, prompts, seeds, tokens, others, longest) -> list[Cell]:
    plain, ours = Arm("plain", best), Arm("speculation", best, draft_len)
    if kind == "samplers":
        arms = tuple(Arm("speculation", name, draft_len) for name in dict.fromkeys((*others, best)))
        return [Cell(kind, path, 1, 1.0, tokens, min(6, prompts), 1, arms)]
    if kind == "k_sweep":
        arms = (plain, *(Arm("speculation", best, k) for k in range(1, longest + 1)))
        return [Cell(kind, path, 1, 1.0, tokens, min(SWEEP_PROMPTS, prompts), 1, arms)] if path == "graph" else []
    few = {"tokens": min(ASSISTED_TOKENS, tokens), "seeds": 1} if path == "graph" else {}
    assisted, adaptive = Arm("assisted", None, draft_len, **few), Arm("assisted", None, None, seeds=1)
    loop = Arm("speculation", "python_loop", draft_len, seeds=1 if path == "eager" else None)
    alone = prompts if path == "graph" else min(EAGER_PROMPTS, prompts)
    main = Cell(kind, path, 1, 1.0, tokens, alone, seeds, (plain, loop, ours, assisted, *([] if few else [adaptive])))
    many = [replace(main, batch=min(8, prompts), prompts=prompts, arms=(plain, replace(loop, seeds=None), ours))] if prompts > 1 else []
    greedy = replace(main, temperature=0.0, seeds=1, arms=(plain, ours, assisted))
    cooler = [replace(main, temperature=0.7, seeds=1, arms=(plain, ours))] if few else []
    return [main, *many, greedy, *cooler]
