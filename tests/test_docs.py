"""The pages of docs/: every block of coming_from.md runs on an engine's layout and gives back the problem; links lead somewhere."""
import itertools
import re
from types import SimpleNamespace

import pytest
import torch

from spec_toolkit import check, from_torch, load_sampler, make_problem, paths, reference

ROOT = paths.PACKAGE.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
SECTIONS = re.split(r"^## ", (ROOT / "docs" / "coming_from.md").read_text(), flags=re.MULTILINE) if DOCS else []


def blocks(title):
    """The Python blocks of a section of coming_from.md; "" for the part before the first."""
    (section,) = [text for text in SECTIONS if (text.startswith(title + "\n") if title else text == SECTIONS[0])]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def run(code, **given):
    """The problem that a block makes from an engine's tensors."""
    names = {"torch": torch, "itertools": itertools, "from_torch": from_torch, "check": check, "load_sampler": load_sampler, **given}
    assert len(code.strip().splitlines()) <= 3, "three lines each"
    exec(code, names)  # noqa: S102 (a block of our own page)
    return names["problem"]


def the_same(problem, base, copied=False):
    """The problem holds base's rows, drafts and lengths, in base's own memory unless `copied`; and a sampler takes it."""
    assert problem.draft_len == base.draft_len and problem.kind == base.kind and torch.equal(problem.draft_tokens, base.draft_tokens)
    assert torch.equal(problem.target, base.target) and (problem.target.data_ptr() == base.target.data_ptr()) != copied
    assert (problem.draft is None) == (base.draft is None)
    if base.draft is not None:
        assert torch.equal(problem.draft, base.draft) and (problem.draft.data_ptr() == base.draft.data_ptr()) != copied
    assert check(load_sampler("torch_vectorised"), problem)


def test_flashinfer():
    base = make_problem(batch=3, draft_len=2, vocab=33)
    (code,) = blocks("FlashInfer")
    the_same(run(code, target_probs=base.target.view(3, 3, 33), draft_token_ids=base.draft_tokens.view(3, 2), draft_probs=base.draft.view(3, 2, 33)), base)


@pytest.mark.parametrize("draft_len", [[3, 0, 2, 0, 1], [2, 2]])
def test_vllm(draft_len):
    with_rows, ngram = blocks("vLLM")
    metadata = lambda base: SimpleNamespace(draft_token_ids=base.draft_tokens, cu_num_draft_tokens=base.draft_start[1:].clone())
    base = make_problem(batch=len(draft_len), draft_len=draft_len, vocab=33)
    the_same(run(with_rows, target_probs=base.target, draft_probs=base.draft, metadata=metadata(base)), base)
    heat = [1.0, 0.0, 0.5, 1.0, 0.0][:len(draft_len)]
    base = make_problem(batch=len(draft_len), draft_len=draft_len, vocab=33, logits=True, draft_probs=False, temperature=heat)
    marked = torch.where(base.temperature == 0, -1.0, base.temperature)
    problem = run(ngram, logits=base.target, metadata=metadata(base), temperature=marked)
    the_same(problem, base)
    assert torch.equal(problem.temperature, base.temperature)


def test_sglang():
    base = make_problem(batch=3, draft_len=4, vocab=33, draft_probs=False)
    candidates = torch.cat([torch.full((3, 1), 7), base.draft_tokens.view(3, 4).long()], dim=1)
    (code,) = blocks("SGLang")
    the_same(run(code, target_probs=base.target.view(3, 5, 33), candidates=candidates), base)


def test_tensorrt_llm():
    ragged, padded = blocks("TensorRT-LLM")
    base = make_problem(batch=3, draft_len=[2, 1, 3], vocab=33)
    start = base.draft_start.tolist()
    per_request = {"target_probs": [base.target[start[b] + b:start[b + 1] + b + 1][None] for b in range(3)],
                   "draft_probs": [base.draft[start[b]:start[b + 1]] for b in range(3)],
                   "draft_tokens": [base.draft_tokens[start[b]:start[b + 1]].tolist() for b in range(3)]}
    the_same(run(ragged, **per_request), base, copied=True)
    base = make_problem(batch=2, draft_len=3, vocab=33, logits=True, row_padding=7, temperature=0.7)
    rows = base.target.as_strided((2, 4, 40), (160, 40, 1))
    draft = base.draft.as_strided((2, 3, 40), (120, 40, 1))[..., :33]
    the_same(run(padded, target_logits=rows, draft_token_ids=base.draft_tokens.view(2, 3), draft_logits=draft, vocab=33, temperature=base.temperature), base)


def test_transformers():
    base = make_problem(batch=1, draft_len=3, vocab=33, logits=True)
    ids = torch.cat([torch.tensor([[1, 2, 3, 4]]), base.draft_tokens.view(1, 3).long()], dim=1)
    (code,) = blocks("transformers")
    the_same(run(code, new_logits=base.target.view(1, 4, 33), candidate_input_ids=ids, candidate_logits=base.draft.view(1, 3, 33)), base)


def test_the_first_blocks():
    use, seeded = blocks("")
    base = make_problem(batch=2, draft_len=2, vocab=33)
    names = {"problem": base}
    exec(use, names)  # noqa: S102
    assert torch.equal(names["outputs"].out_tokens, reference(base).out_tokens)
    rectangular = {"target_probs": base.target.view(2, 3, 33), "draft_tokens": base.draft_tokens.view(2, 2), "draft_probs": base.draft.view(2, 2, 33)}
    problem = run(seeded, **rectangular, request_seeds=base.seeds.tolist(), first_draft_positions=base.positions)
    assert torch.equal(problem.seeds, base.seeds) and torch.equal(problem.positions, base.positions)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    links = [link for link in re.findall(r"\]\(([^)#]+)", path.read_text()) if "://" not in link]
    assert all((path.parent / link).exists() for link in links), [link for link in links if not (path.parent / link).exists()]
    assert path.read_text().startswith("# ")
