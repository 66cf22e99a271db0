"""A random Llama of 40 words with a tokenizer: small enough to train a draft of it in seconds on a CPU, and nothing like a language."""
from __future__ import annotations

import torch

from .pretrained import _library

WORDS = ["<end>", "<start>", "user", "assistant", "be", "kind", *(f"w{i}" for i in range(34))]
CHAT = "<start> be kind <end> {% for m in messages %}<start> {{ m['role'] }} {{ m['content'] }}<end> {% endfor %}"


def target(vocab: int = len(WORDS), layers: int = 4, seed: int = 0, **more):
    """A LlamaForCausalLM whose words depend on what it has read; four query heads share two key heads. Seeds PyTorch's generators."""
    transformers = _library()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=layers,
                                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.25,
                                      tie_word_embeddings=True, **more)
    return transformers.LlamaForCausalLM(config).eval()


def tokenizer():
    """Of words between spaces, with a chat format."""
    transformers = _library()
    import tokenizers  # comes with transformers
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", bos_token="<start>")
    made.chat_template = CHAT
    return made


RECIPE = {"steps": 200, "layers": 2, "batch": 64, "length": 32, "rows": 32, "held_out": 64, "learning_rate": 5e-3, "report_seconds": 1.0}
