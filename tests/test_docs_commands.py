"""Every command that the docs show is run, as it stands there.

`saewatch` commands run here, beside a recording that is replayed: those of verbs that serve in processes of their own,
which get Ctrl-C after they have said something, and the others in this one, since each process would load its own
torch. `NAMES` puts real things in the place of the docs' placeholders. Other programs' commands are run by other tests:
`ELSEWHERE` says by which.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from saewatch import cli
from saewatch.engine.dictionary_file import load_bundle
from tests import deployed, fakes
from tests.cli.upgrade import taped
from tests.dictionary import exemplary
from tests.dictionary import test_neuronpedia as neuronpedia
from tests.sidecar import ENVIRONMENT, ROOT, command

PAGES = (
    "README.md",
    "docs/alerts.md",
    "docs/changing.md",
    "docs/clients.md",
    "docs/diff.md",
    "docs/drift.md",
    "docs/labels.md",
    "docs/fidelity.md",
    "docs/policies.md",
    "docs/score.md",
    "docs/troubleshooting.md",
    "recordings/README.md",
)
FIXTURE = ROOT / "tests" / "fixture"
WEIGHTS = load_bundle(FIXTURE / "bundle").sheet.weights
DEMO = ROOT / "dictionaries" / "smollm2-135m-it.resid_post.14"
NAMES: Mapping[str, str] = {
    "BUNDLE": str(FIXTURE / "bundle"),
    "MODEL": str(FIXTURE / "model"),
    "WEIGHTS": WEIGHTS,
    "EXAMPLES": "gathered",
    "SERVED": str(FIXTURE / "model"),
    "path/of/the/bundle": str(FIXTURE / "bundle"),
    "path/of/the/model": str(FIXTURE / "model"),
    "/tmp/saewatch/tap.sock": "tap.sock",  # made absolute below: a socket's path is short
}
OWN: Mapping[str, Mapping[str, str]] = {"docs/drift.md": {"BUNDLE": "deployed", "demo.refund": "demo04.l1"}}
"""Names that mean something else on one page."""
SERVING = ("serve", "watch", "replay", "record", "fake-server")
"""Verbs that go on until Ctrl-C, unless they are told to end."""
REFUSED: Mapping[str, str] = {
    "tap": "a recording carries out no command",
    "alerts show": "there is no alert of that id",
    "alerts ack": "the same",
    "alerts silence": "there is no policy of that name",
    "alerts unsilence": "nor a silence of that id",
    "dictionary certify": "on one text nothing is measured",
    "doctor": "the recorded engine is not there any more, so the stream is blind",
}
"""What exits with 2 here, and why that is right."""
ELSEWHERE: Mapping[str, str] = {
    "git clone": ".ci/run",
    "make": ".ci/run",
    "pip install": "tests/e2e/test_clean.py",
    "curl": "tests/e2e/test_demo.py",
    "buf": "tests/client/test_examples.py",
    "grpcurl": "tests/client/test_examples.py",
    "python": "tests/client/test_examples.py",
    "npm": "tests/client/test_examples.py",
    "npx": "tests/client/test_examples.py",
    "node": "tests/client/test_examples.py",
    "go": "docs/limits.md",
}
PARTLY: Mapping[str, str] = {"--panel": "tests/cli/baseline/test_build.py"}
"""What is run elsewhere, since it needs recordings of its own."""


def commands(text: str) -> Iterator[str]:
    """The command lines of a page's blocks: those without a language, or of a shell."""
    for language, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE):
        if language in {"", "sh", "bash"}:
            yield from _joined(block)
    for block in re.findall(r"(?:^    \S.*\n)+", text, re.MULTILINE):
        yield from _joined(block)


def _joined(block: str) -> Iterator[str]:
    lines = re.sub(r"\\\n", " ", block).splitlines()
    return (" ".join(shlex.split(line, comments=True)[:3]) and line.strip() for line in lines if _is_command(line))


def _is_command(line: str) -> bool:
    return bool(re.match(rf"\s*(saewatch|{'|'.join(ELSEWHERE)})\b", line)) and "▶" not in line


SHOWN = [(page, line) for page in PAGES for line in commands((ROOT / page).read_text())]
OURS = [
    (page, line)
    for page, line in SHOWN
    if line.startswith("saewatch ") and not any(option in line for option in PARTLY)
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the commands run."""

    folder: Path
    environment: Mapping[str, str]

    def words(self, line: str, page: str) -> list[str]:
        """A command line of a page with real names, as arguments of ours."""
        for name, real in {
            **NAMES,
            **OWN.get(page, {}),
            "127.0.0.1:50071": self.environment["SAEWATCH_ADDRESS"],
        }.items():
            line = re.sub(rf"(?<![\w/.]){re.escape(name)}(?![\w/])", real, line)
        words = shlex.split(line, comments=True)[1:]
        return [str(self.folder / "tap.sock") if word == "tap.sock" else word for word in words]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("d")
    (folder / "recordings").symlink_to(ROOT / "recordings")
    (folder / "dictionaries").symlink_to(ROOT / "dictionaries")
    (folder / "prompts.txt").write_text("I will find out where you live.\n")
    (folder / "labels.csv").write_text("feature,label,severity\nthreat.p1,Threats,critical\n")
    neuronpedia.batch(folder, neuronpedia.line("12"))
    exemplary.write(folder / "gathered", WEIGHTS, exemplary.pets("threat.p1"))
    (folder / "texts.jsonl").write_text('{"text": "I will find out where you live."}\n')
    bundle = fakes.write_bundle(folder / "upgraded", taped.KNOWN)
    for name in ("before", "after"):
        taped.tape(folder / f"{name}.frames", taped.requests(60, lambda _: []), folder=bundle)
    for week in (1, 2):
        start_ns = deployed.START_NS + 4 * week * deployed.DAY_NS
        deployed.recording(folder / f"week{week}.frames", 4, start_ns=start_ns, seed=week)
    deployed.bundle(folder / "deployed")
    local = {"grpc": {"listen": "127.0.0.1:0"}, "web": {"listen": "127.0.0.1:0"}}
    settings = {"socket": str(folder / "own.sock"), "dictionaries": [str(DEMO)], **local}
    (folder / "saewatch.yaml").write_text(json.dumps(settings))
    (folder / "replayed.yaml").write_text(json.dumps(local))
    home = {**ENVIRONMENT, "XDG_STATE_HOME": str(folder / "state"), "NO_COLOR": "1"}
    told = folder / "addresses.json"
    line = command("replay", "recordings/demo.frames", "--fast", "-c", "replayed.yaml", "--addresses", told)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(line, cwd=folder, env=home, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 30
        while not told.exists():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield Place(folder, {**home, "SAEWATCH_ADDRESS": json.loads(told.read_text())["grpc"]})
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The place, of this process too."""
    monkeypatch.chdir(place.folder)
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    return place


@pytest.mark.parametrize(("page", "line"), OURS, ids=[line[:60] for _, line in OURS])
def test_a_command_of_the_docs_does_what_it_says(
    page: str, line: str, here: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words = here.words(line, page)
    if words[0] in SERVING:
        code, said = _beside(words, here)
    else:
        code = cli.main(words)
        told = capsys.readouterr()
        said = told.out + told.err
    refused = any(" ".join(words).startswith(verb) for verb in REFUSED)
    assert code in ({0, 2} if refused else {0}), (page, line, said[-2000:])
    assert "Traceback" not in said


def _beside(words: list[str], place: Place) -> tuple[int, str]:
    """The exit code and the words of a process of its own."""
    if words[0] in {"serve", "replay", "record"} and "-c" not in words:
        words = [*words, "-c", "replayed.yaml"]  # free ports
    process = subprocess.Popen(
        command(*words), cwd=place.folder, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = b""
    if not {"--once", "--count", "--for"} & {*words}:
        # a watch has nothing to say of a recording that has ended; a busy machine takes its time to begin
        said = _until_it_speaks(process, 5 if words[0] == "watch" else 60)
        process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=300)
    return process.returncode, (said + rest).decode(errors="replace")


def _until_it_speaks(process: subprocess.Popen[bytes], within_s: float) -> bytes:
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    end = time.monotonic() + within_s
    said = b""
    while not said and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
        said = process.stdout.read() or b""
    time.sleep(0.3)
    os.set_blocking(process.stdout.fileno(), True)
    return said


def test_other_programs_commands_are_run_somewhere() -> None:
    for page, line in SHOWN:
        if not line.startswith("saewatch "):
            program = next(name for name in ELSEWHERE if line.startswith(name))
            assert (ROOT / ELSEWHERE[program]).exists(), (page, line)


def test_commands_are_found() -> None:
    text = "a\n```\nsaewatch status  # how\nbuf curl \\\n  -d '{}'\n```\n```python\nsaewatch no\n```\n\n    make test\n"
    assert list(commands(text)) == ["saewatch status  # how", "buf curl    -d '{}'", "make test"]
