"""A small Qwen2 with random weights and large logits, whose greedy answers do not hang on rounding; and its prompts."""

from pathlib import Path
from typing import Any

from sft.eval.engines.base import Request, Sampling, Vocabulary, ends_of

END, BASE_END, CALL, CALLED = "<|im_end|>", "<|endoftext|>", "<tool_call>", "</tool_call>"
POSITIONS = 512


def write_tokenizer(folder: Path) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    options: dict[str, Any] = {"special_tokens": [BASE_END, "<|im_start|>", END]}
    options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(["What is 1 + 2?"], trainers.BpeTrainer(vocab_size=280, show_progress=False, **options))
    inner.add_tokens([AddedToken(CALL, special=False), AddedToken(CALLED, special=False)])  # as in Qwen2.5's
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, pad_token=BASE_END)
    made.save_pretrained(folder)
    return made


def write_model(folder: Path, hidden: int = 128, layers: int = 2, scale: float = 8.0) -> None:
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    folder.mkdir(parents=True)
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(5)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=hidden // 32, num_key_value_heads=2, max_position_embeddings=POSITIONS,
        tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id, dtype="float32",
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight *= scale
    # Not to be heeded: each would change every answer.
    model.generation_config = GenerationConfig(do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0)
    model.save_pretrained(folder)


def requests(tokenizer: Any, count: int, max_tokens: int = 40, stop: tuple[str, ...] = ()) -> list[Request]:
    """Prompts of 7 to 30 tokens, many of them with a common beginning."""
    vocabulary = Vocabulary(tokenizer)
    texts = [f"What is {n} + {n * n}?" + " Compute it." * (n % 3) for n in range(count)]
    return [Request((n,), tuple(vocabulary.encode(text)), max_tokens, 1000 + n, stop) for n, text in enumerate(texts)]


def sampling(tokenizer: Any, temperature: float, **options: Any) -> Sampling:
    return Sampling(temperature, ends_of(tokenizer, [END, BASE_END]), **options)
