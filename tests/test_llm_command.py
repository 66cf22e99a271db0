"""`spec-toolkit llm` with more than one way to draft, and which of them gained."""
import pytest

pytest.importorskip("transformers")

from spec_toolkit import cli, draft_weights, llm_command, loop_law, pretrained


class Words:
    """A tokenizer of 97 words."""
    eos_token_id, chat_template = None, None

    def get_vocab(self):
        return {f"w{i}": i for i in range(97)}

    def __call__(self, text):
        return {"input_ids": [ord(letter) % 97 for letter in text[:6]]}


@pytest.fixture
def loaded(monkeypatch):
    """Models by name are tiny random ones; the names that were asked for."""
    asked, model = [], loop_law.tiny_model()

    def load(name, dtype, device, target=None):
        asked.append((name, target and target[0] is model))
        return (model if name == "smollm2" else loop_law.moved(model)), Words()
    monkeypatch.setattr(pretrained, "load", load)
    with loop_law.one_thread():
        yield asked


WORDS = ["llm", "--device", "cpu", "--tokens", "8", "--repeats", "1", "--prompt", "abcabc"]


@pytest.mark.parametrize("path", ["eager", "graph"])
def test_both_ways_to_draft_where_the_trained_one_is_there(loaded, monkeypatch, tmp_path, capsys, path):
    (tmp_path / draft_weights.PROVENANCE).write_text("{}")
    monkeypatch.setattr(draft_weights, "FOLDER", tmp_path)
    assert cli.main([*WORDS, "--path", path]) == 0
    said = capsys.readouterr().out
    assert loaded == [("smollm2", None), ("smollm2-draft", True)]
    assert said.count(f"{path} path; reading the prompts") == 2 and said.count("greedy texts that are the same both ways: 1 of 1") == 2
    for name in ("ngram", "smollm2-draft"):
        (line,) = [line for line in said.splitlines() if line.startswith(f"drafts by {name}: ")]
        assert "of 1 runs" in line and ("No speedup" in line or "faster in each" in line)


def test_ngrams_alone_where_it_is_not(loaded, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(draft_weights, "FOLDER", tmp_path)
    assert cli.main(WORDS) == 0
    said = capsys.readouterr().out
    assert loaded == [("smollm2", None)] and "drafts: ngram" in said and "drafts by" not in said and "eager path" in said
    assert llm_command.trained("another/model") == []
    assert cli.main([*WORDS, "--draft", "other"]) == 0 and loaded[-1] == ("other", True)
