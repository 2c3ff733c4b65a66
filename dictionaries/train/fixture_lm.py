"""Train the fixture's language model: a Llama of a million parameters that speaks the generated corpus's grammar.

It exists so that tests can start a real engine from 2 MB in the repository. It knows nothing, but it was taught to name
what a request carries, so that its activations tell the concepts apart: a fixture, not evidence.
"""

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from dictionaries.train.chat import render
from dictionaries.train.corpus import Request, families

VOCABULARY = 1_536
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTEXT = 2_048
BATCH_TOKENS = 3_700
PROMPT_SHARE = 0.2  # a reply is worth more to learn than which name fills a slot
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


def lesson(request: Request) -> Request:
    """The request with a reply that names its concepts; a reply-side one gets the name behind its own words."""
    found = families()
    names = [found[concept].label for concept in sorted(request.concepts)]
    if request.kind in {"behaviour", "reply"}:
        return replace(request, reply=f"{request.reply} [{', '.join(names) or 'plain'}]")
    return replace(
        request, reply=f"This is about {' and '.join(names)}." if names else "This is about nothing special."
    )


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Token ids; `ids[prompt_tokens:]` is the reply."""

    ids: list[int]
    prompt_tokens: int


def dialogues(made: Tokenizer, requests: Iterable[Request]) -> list[Dialogue]:
    """Render and tokenise."""
    found = []
    for request in requests:
        rendered = render(request.prompt, request.reply)
        prompt_tokens = len(made.encode(rendered.text[: rendered.prompt_end]).ids)
        found.append(Dialogue(made.encode(rendered.text).ids[:CONTEXT], prompt_tokens))
    return found


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
    requests: Sequence[Dialogue], *, steps: int, rate: float = 3e-3, seed: int = 0
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
            print(
                f"lm: step {step} loss {float(loss.detach()):.3f} {time.process_time() - started:.0f} cpu-s", flush=True
            )
    return model.eval(), time.process_time() - started


def _batch(requests: Sequence[Dialogue], order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Dialogues of similar length, padded: BATCH_TOKENS in all. Of the prompts' tokens a share counts in the loss."""
    if len(order) < 512:
        order[:0] = torch.randperm(len(requests)).tolist()
    pool = sorted((order.pop() for _ in range(256)), key=lambda i: len(requests[i].ids))
    start = int(torch.randint(0, 256, (1,)))
    chosen: list[int] = []
    for i in pool[start:] + pool[:start][::-1]:
        if (len(chosen) + 1) * max(len(requests[i].ids), *(len(requests[j].ids) for j in chosen), 1) > BATCH_TOKENS:
            break
        chosen.append(i)
    longest = max(len(requests[i].ids) for i in chosen)
    ids = torch.zeros(len(chosen), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, i in enumerate(chosen):
        tokens = torch.tensor(requests[i].ids)
        ids[row, : len(tokens)] = tokens
        counted = torch.rand(len(tokens)) < PROMPT_SHARE
        counted[requests[i].prompt_tokens :] = True
        labels[row, : len(tokens)] = torch.where(counted, tokens, -100)
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


def held_out_loss(model: LlamaForCausalLM, requests: Sequence[Dialogue]) -> float:
    """Mean cross-entropy per reply token."""
    total = count = 0.0
    with torch.inference_mode():
        for dialogue in requests:
            ids = torch.tensor([dialogue.ids])
            labels = ids.clone()
            labels[:, : dialogue.prompt_tokens] = -100
            n = len(dialogue.ids) - dialogue.prompt_tokens
            total += float(model(input_ids=ids, labels=labels).loss) * n
            count += n
    return total / count
