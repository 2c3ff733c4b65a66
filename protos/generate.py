"""Writes the gRPC stubs in service/saewatch/edge/pb from the .proto files beside this script.

    .venv/bin/python protos/generate.py [--check]

The generator is old on purpose. Stubs refuse a protobuf runtime that is older than their generator, and ours share an
environment with vLLM, whose protobuf we do not choose: stubs of grpcio-tools 1.71.2 carry protobuf 5.29 code and load
on 5.29, 6 and 7 (docs/decisions/0006). The tools live in an environment of their own, .venv-proto, because they pin a
protobuf that the service does not want.

protoc's Python imports its output as ``saewatch.v1``; ours lies in ``saewatch.edge.pb.saewatch.v1``, so the imports are
rewritten. The names on the wire stay ``saewatch.v1``.

``--check`` writes nothing and exits 2 when the committed stubs differ from what the protos give.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
ROOT = PROTOS.parent
STUBS = ROOT / "service" / "saewatch" / "edge" / "pb"
TOOLS = ROOT / ".venv-proto"
UV = ROOT / ".venv" / "bin" / "uv"

PINS = ("grpcio-tools==1.71.2", "mypy-protobuf==3.7.0", "protobuf==5.29.6", "grpcio==1.71.2", "setuptools==80.9.0")
PACKAGE = "saewatch.v1"
HOME = "saewatch.edge.pb.saewatch.v1"


def main(arguments: list[str] | None = None) -> int:
    """Generates, then writes or compares."""
    parser = argparse.ArgumentParser(description="Write the gRPC stubs from protos/.")
    parser.add_argument("--check", action="store_true", help="compare only; exit 2 when the stubs are not current")
    options = parser.parse_args(arguments)
    make_tools()
    fresh = generate()
    if options.check:
        return report(differences(fresh, committed()))
    shutil.rmtree(STUBS, ignore_errors=True)
    for name, text in fresh.items():
        path = STUBS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    print(f"{len(fresh)} files in {STUBS.relative_to(ROOT)}")
    return 0


def make_tools() -> None:
    """Makes .venv-proto with the pinned generator, once."""
    stamp = TOOLS / "pins"
    wanted = "\n".join(PINS)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, TOOLS], check=True)
    subprocess.run([UV, "pip", "install", "--quiet", "--python", TOOLS / "bin" / "python", *PINS], check=True)
    stamp.write_text(wanted)


def generate() -> dict[str, str]:
    """The stubs as the protos give them: path inside ``STUBS`` to text."""
    protos = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        tools = TOOLS / "bin"
        command = [str(tools / "python"), "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
        command += [f"--plugin=protoc-gen-{name}={tools / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
        command += [f"--{name}_out={folder}" for name in ("python", "grpc_python")]
        command += [f"--{name}_out=quiet:{folder}" for name in ("mypy", "mypy_grpc")]
        subprocess.run([*command, *protos], check=True)
        made = {str(path.relative_to(folder)): path.read_text() for path in Path(folder).rglob("*_pb2*")}
    stubs = {name: rewritten(name, text) for name, text in sorted(made.items()) if keeps(name, made)}
    modules = sorted({Path(name).stem for name in stubs})
    return {"__init__.py": index(modules), "saewatch/__init__.py": "", "saewatch/v1/__init__.py": "", **stubs}


def keeps(name: str, made: dict[str, str]) -> bool:
    """A proto without a service gives a grpc module without a class; it is left out."""
    return "_pb2_grpc" not in name or "\nclass " in made[str(Path(name).with_suffix(".py"))]


def rewritten(name: str, text: str) -> str:
    """Moves the imports of one stub from ``saewatch.v1`` to where the stubs lie."""
    if name.endswith(".pyi"):
        return re.sub(rf"\b{re.escape(PACKAGE)}\.(?=\w+_pb2\b)", f"{HOME}.", text)
    text = re.sub(rf"^from {re.escape(PACKAGE)} import", f"from {HOME} import", text, flags=re.MULTILINE)
    return re.sub(rf"'{re.escape(PACKAGE)}\.(\w+_pb2)'", rf"'{HOME}.\1'", text)  # the messages' __module__


def index(modules: list[str]) -> str:
    """The text of ``saewatch.edge.pb``, which has every module as a name of its own."""
    names = "".join(f"    {name},\n" for name in modules)
    quoted = "".join(f'    "{name}",\n' for name in modules)
    title = '"""Stubs of protos/saewatch/v1, written by protos/generate.py. Not to be edited."""\n\n'
    return f"{title}from {HOME} import (\n{names})\n\n__all__ = [\n{quoted}]\n"


def committed() -> dict[str, str]:
    """The stubs as they are in the repository."""
    return {str(path.relative_to(STUBS)): path.read_text() for path in STUBS.rglob("*.py*") if path.suffix != ".pyc"}


def differences(fresh: dict[str, str], old: dict[str, str]) -> list[str]:
    """What is missing, left over or not current, one line each."""
    lines = [f"{name}: missing" for name in fresh.keys() - old.keys()]
    lines += [f"{name}: left over" for name in old.keys() - fresh.keys()]
    return sorted(lines + [f"{name}: not current" for name in fresh.keys() & old.keys() if fresh[name] != old[name]])


def report(lines: list[str]) -> int:
    """Says what differs; the exit code."""
    for line in lines:
        print(f"{STUBS.relative_to(ROOT)}/{line}", file=sys.stderr)
    if lines:
        print("stubs are not what the protos give: run `make proto` and commit", file=sys.stderr)
        return 2
    print("stubs are current")
    return 0


if __name__ == "__main__":
    sys.exit(main())
