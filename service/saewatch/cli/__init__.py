"""The command line. Exit codes: 0 good, 1 usage, 2 refused or failed, 3 could not be read or reached.

`VERBS` names a module for each verb, which is imported when the verb is used and not before: `saewatch version` must
not wait for gRPC and pydantic. A verb's module has `arguments(parser)` and `run(options) -> int`. Verbs of two words
share the first: each is a row of its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

from saewatch.cli.terminal import printable
from saewatch.core.errors import SaewatchError, UnreachableError

GOOD, USAGE, FAILED, UNREACHED = range(4)
INTERRUPTED = 130
"""As shells have it for what Ctrl-C ended."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One row of the table."""

    module: str
    says: str


VERBS: Mapping[str, Verb] = {
    "serve": Verb("saewatch.cli.serve", "receive from engines, and serve gRPC and metrics"),
    "record": Verb("saewatch.cli.record", "write what engines send into a file"),
    "replay": Verb("saewatch.cli.replay", "serve a recording as if it happened now"),
    "config": Verb("saewatch.cli.config", "check a configuration"),
    "vllm-args": Verb("saewatch.cli.vllm_args", "print the arguments that switch the tap on in vLLM"),
    "status": Verb("saewatch.cli.status", "ask a running sidecar how it is doing"),
    "watch": Verb("saewatch.cli.watch", "show what fires, as it happens"),
    "fake-server": Verb("saewatch.cli.fake_server", "serve made-up events, to test a client with"),
    "query": Verb("saewatch.cli.query", "ask what fired before"),
    "alerts": Verb("saewatch.cli.alerts", "list, watch, show, judge and silence the alerts of a running sidecar"),
    "tap": Verb("saewatch.cli.tap", "test the taps of running engines, and change what they watch"),
    "doctor": Verb("saewatch.cli.doctor", "examine an installation, and say what to do"),
    "plan": Verb("saewatch.cli.plan", "tell beforehand what watching will cost"),
    "diff": Verb("saewatch.cli.diff", "say what an upgrade did to the watched features"),
    "score": Verb("saewatch.cli.score", "score texts without serving: what fires on each token"),
    "dictionary import": Verb("saewatch.cli.dictionary.import_", "make a bundle of a dictionary that others trained"),
    "dictionary encode": Verb("saewatch.cli.dictionary.encode", "encode rows of activations with a bundle"),
    "dictionary conformance": Verb("saewatch.cli.dictionary.conformance", "compare a bundle with its own library"),
    "dictionary align": Verb("saewatch.cli.dictionary.align", "find the features of an old dictionary on a new one"),
    "dictionary calibrate": Verb(
        "saewatch.cli.dictionary.calibrate", "choose limits for a stated rate of false alarms"
    ),
    "dictionary label": Verb("saewatch.cli.dictionary.label", "give features labels, from an export or a CSV"),
    "dictionary examples": Verb("saewatch.cli.dictionary.examples", "gather or show what features fire on"),
    "dictionary autolabel": Verb("saewatch.cli.dictionary.autolabel", "let an endpoint name features, and measure it"),
    "dictionary review": Verb("saewatch.cli.dictionary.review", "list labels that wait for a review, or give one"),
    "dictionary evaluate": Verb("saewatch.cli.dictionary.evaluate", "measure a dictionary, and judge it"),
    "dictionary certify": Verb("saewatch.cli.dictionary.certify", "say which features survive serving"),
    "dictionary add": Verb("saewatch.cli.dictionary.add", "take a bundle into the store"),
    "dictionary sign": Verb("saewatch.cli.dictionary.sign", "sign a bundle, or attestations in it"),
    "dictionary list": Verb("saewatch.cli.dictionary.list", "list the bundles of the store"),
    "dictionary show": Verb("saewatch.cli.dictionary.show", "show what a bundle is"),
    "dictionary diff": Verb("saewatch.cli.dictionary.diff", "say what differs between two bundles"),
    "dictionary promote": Verb("saewatch.cli.dictionary.promote", "move a ref to a bundle"),
    "dictionary rollback": Verb("saewatch.cli.dictionary.rollback", "move a ref back to an earlier bundle"),
    "dictionary apply": Verb("saewatch.cli.dictionary.apply", "bring what a ref points to into running engines"),
    "dictionary shadow": Verb("saewatch.cli.dictionary.shadow", "compare a shadow with the stable one beside it"),
    "dictionary history": Verb("saewatch.cli.dictionary.history", "tell how refs were moved"),
    "dictionary verify": Verb("saewatch.cli.dictionary.verify", "read the whole store again"),
    "dictionary gc": Verb("saewatch.cli.dictionary.gc", "remove tensors that nothing refers to"),
    "dictionary pin": Verb("saewatch.cli.dictionary.pin", "keep a bundle's tensors"),
    "dictionary export": Verb("saewatch.cli.dictionary.export", "make the folder of a stored bundle"),
    "policy check": Verb("saewatch.cli.policy.check", "read a policy: what each rule comes to, and what it costs"),
    "policy test": Verb("saewatch.cli.policy.test", "play written or recorded requests to a policy's rules"),
    "policy explain": Verb("saewatch.cli.policy.explain", "say why a rule fired on a recorded request, or did not"),
    "policy preview": Verb("saewatch.cli.policy.preview", "tell how often rules would have fired on a recording"),
    "baseline accept": Verb("saewatch.cli.baseline.accept", "accept new levels of features, with a reason"),
    "baseline build": Verb("saewatch.cli.baseline.build", "fit what is usual, from recorded traffic"),
    "version": Verb("saewatch.cli.version", "print the version"),
}


class UsageError(SaewatchError):
    """Options that do not go together, or a value that makes no sense beside another one."""


class VerbModule(Protocol):
    """What a verb's module offers."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the verb's own arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Does it; gives the exit code, or raises `SaewatchError`."""


class Parser(argparse.ArgumentParser):
    """argparse with our exit code for a wrong usage."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and ends."""
        self.print_usage(sys.stderr)
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; gives the exit code."""
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except KeyboardInterrupt:  # a verb that goes on until Ctrl-C ends well with it: this one came before
        return INTERRUPTED


def _main(words: list[str]) -> int:
    top = _top()
    if words and words[0] == "--version":
        words[0] = "version"
    name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in VERBS), "")
    if not name:
        _refuse_group(top, words)
        top.parse_args(words)  # prints the help, or says what is wrong
        top.error("a verb is missing")
    verb = VERBS[name]
    # gRPC reads it when it is imported, and would tell the terminal of each lost connection in words of its own.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    module: Any = importlib.import_module(verb.module)
    parser = Parser(prog=f"saewatch {name}", description=module.__doc__)
    module.arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(words[len(name.split()) :])
    try:
        code = int(module.run(options))
        sys.stdout.flush()
    except SaewatchError as error:
        return _refused(error, as_json=options.json)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # what a verb reads it has translated: this is the disk that its output goes to
        place = error.filename if isinstance(error.filename, str) else "output"
        said = UnreachableError(place, found=error.strerror or str(error), expected="a place that can be written to")
        return _refused_output(said, as_json=options.json)
    return code


def _refused_output(error: SaewatchError, *, as_json: bool) -> int:
    """The same where standard output itself may be what takes nothing: then in words, and nothing more goes there."""
    try:
        code = _refused(error, as_json=as_json)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _refused(error, as_json=False)
    return code


def _refuse_group(top: Parser, words: list[str]) -> None:
    """Where the first word of verbs stands without a second one that there is: names those, and ends."""
    seconds = [name.split()[1] for name in VERBS if words and name.startswith(f"{words[0]} ")]
    if not seconds:
        return
    if {"-h", "--help"} & set(words):
        print("\n".join(f"saewatch {words[0]} {second}" for second in seconds))
        raise SystemExit(GOOD)
    top.error(f"{words[0]}: the second word should be one of {', '.join(seconds)}")


def _top() -> Parser:
    width = max(map(len, VERBS)) + 2
    listed = "\n".join(f"  {name:<{width}}{verb.says}" for name, verb in VERBS.items())
    parser = Parser(
        prog="saewatch",
        description="Watches what a serving language model represents.",
        epilog=f"verbs:\n{listed}\n\nsaewatch VERB --help says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=list(VERBS), metavar="VERB")
    return parser


def _refused(error: SaewatchError, *, as_json: bool) -> int:
    if as_json:
        kind = type(error).__name__
        said = {"kind": kind, "subject": error.subject, "found": str(error.found), "expected": str(error.expected)}
        print(json.dumps({"error": {**said, "hint": error.hint}}))
    else:
        print(f"saewatch: {printable(str(error))}", file=sys.stderr)  # files and sidecars name what is in it
    if isinstance(error, UsageError):
        return USAGE
    return UNREACHED if isinstance(error, UnreachableError) else FAILED
