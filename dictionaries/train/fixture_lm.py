"""Train the fixture's language model: a Llama of a million parameters that speaks the generated corpus's grammar.

It exists so that tests can start a real engine from 2 MB in the repository. It knows nothing.
"""

import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 1_536
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTEXT = 2_048
BATCH_TOKENS = 3_700
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,  # of 64: vLLM's CPU attention has no smaller head
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE of VOCABULARY tokens, trained on `texts`."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return made


def train(
    requests: Sequence[Sequence[int]], *, steps: int, rate: float = 3e-3, seed: int = 0
) -> tuple[LlamaForCausalLM, float]:
    """AdamW with a cosine schedule on shuffled requests, packed without padding; returns model and cpu-seconds."""
    started = time.process_time()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(**{k: v for k, v in CONFIG.items() if k not in {"architectures", "model_type"}})
    )
    adam = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    order: list[int] = []
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 40) * 0.5 * (1 + math.cos(math.pi * step / steps))
        ids, labels = _batch(requests, order)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        if step % 100 == 0:
            print(f"lm: step {step} loss {float(loss):.3f} {time.process_time() - started:.0f} cpu-s", flush=True)
    return model.eval(), time.process_time() - started


def _batch(requests: Sequence[Sequence[int]], order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Requests of similar length, padded: BATCH_TOKENS in all."""
    if len(order) < 512:
        order[:0] = torch.randperm(len(requests)).tolist()
    pool = sorted((order.pop() for _ in range(256)), key=lambda i: len(requests[i]))
    start = int(torch.randint(0, 256, (1,)))
    chosen: list[int] = []
    for i in pool[start:] + pool[:start][::-1]:
        if (len(chosen) + 1) * max(len(requests[i]), *(len(requests[j]) for j in chosen), 1) > BATCH_TOKENS:
            break
        chosen.append(i)
    longest = max(len(requests[i]) for i in chosen)
    ids = torch.zeros(len(chosen), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, i in enumerate(chosen):
        ids[row, : len(requests[i])] = labels[row, : len(requests[i])] = torch.tensor(requests[i])
    return ids, labels


def save(model: LlamaForCausalLM, made: Tokenizer, out: Path) -> None:
    """The Hugging Face layout, bf16; every byte a function of the weights and the tokenizer."""
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    made.save(str(out / "tokenizer.json"))
    tokens = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}
    files = {
        "config.json": {**CONFIG, "dtype": "bfloat16"},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": CONTEXT,
            "clean_up_tokenization_spaces": False,
            **tokens,
        },
    }
    for name, content in files.items():
        (out / name).write_text(json.dumps(content, indent=1) + "\n")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def held_out_loss(model: LlamaForCausalLM, requests: Sequence[Sequence[int]]) -> float:
    """Mean cross-entropy per token."""
    total = count = 0.0
    with torch.inference_mode():
        for ids in requests:
            tokens = torch.tensor([list(ids)])
            total += float(model(input_ids=tokens, labels=tokens).loss) * (len(ids) - 1)
            count += len(ids) - 1
    return total / count
