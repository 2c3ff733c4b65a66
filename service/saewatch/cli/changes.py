"""What `saewatch tap` changes in running engines, and in which words it says what is in force."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence

from saewatch import cli
from saewatch.client import Client
from saewatch.edge.pb import tap_pb2

SHORT = 19
"""Letters of a digest that people are shown."""
OPTIONS = {"dictionary": ("watch", "load"), "hook_point": ("watch", "load"), "features": ("watch",)} | dict.fromkeys(
    ("replaces", "path"), ("load",)
)
"""Options to the actions that they belong to."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """What is to change, where it is not said by the action alone."""
    digest = "its digest, or how that begins"
    parser.add_argument(
        "--dictionary",
        default="",
        metavar="DIGEST",
        help=f"watch: whose features, if several are in force; load: which one is to be; {digest}",
    )
    parser.add_argument(
        "--features", default="", metavar="A,B", help="watch: these; without it as at the engine's start"
    )
    parser.add_argument(
        "--replaces", default="", metavar="DIGEST", help=f"load: in whose place, if several are in force; {digest}"
    )
    parser.add_argument("--hook-point", default="", help="watch, load: where, if the dictionary is at several")
    parser.add_argument(
        "--path", default="", help="load: the bundle's folder as the engine sees it; without it as the sidecar has it"
    )


def check(options: argparse.Namespace) -> None:
    """Raises `UsageError` for options that would change nothing."""
    for name, actions in OPTIONS.items():
        if getattr(options, name) and options.action not in actions:
            raise cli.UsageError(f"--{name.replace('_', '-')}", found=options.action, expected=" or ".join(actions))
    if options.action == "load" and not options.dictionary:
        raise cli.UsageError("--dictionary", found="nothing", expected="the dictionary that is to be in force")


def ask(client: Client, options: argparse.Namespace) -> Sequence[tap_pb2.Change]:
    """Changes it. Raises `SaewatchError` when no engine does, `UsageError` for a digest that names none or several."""
    where = {"engine": options.engine, "timeout_s": options.timeout_s}
    if options.action in {"on", "off"}:
        return client.set_watching(on=options.action == "on", **where)
    open_streams = [one.stream for one in client.status().streams if not one.ended]
    here = {one.weights_digest for one in open_streams if options.engine in {"", one.engine}}
    where["hook_point"] = options.hook_point
    if options.action == "watch":
        features = [name for part in options.features.split(",") if (name := part.strip())]
        return client.set_watch_list(_digest("--dictionary", options.dictionary, here), features, **where)
    known = {one.weights_digest for one in client.dictionaries()}
    new = _digest("--dictionary", options.dictionary, known)
    return client.load_dictionary(_digest("--replaces", options.replaces, here), new, path=options.path, **where)


def _digest(option: str, begins: str, known: Collection[str]) -> str:
    """The digest that begins so, or the only one; what is not known is for the sidecar to refuse."""
    found = sorted(one for one in known if one.removeprefix("sha256:").startswith(begins.removeprefix("sha256:")))
    if len(found) > 1 or not (found or begins):
        there = ", ".join(one[:SHORT] for one in found[:8]) or "none"
        raise cli.UsageError(option, found=f"{begins or 'nothing'}, and {there}", expected="one of them")
    return found[0] if found else begins


def lines(action: str, changes: Sequence[tap_pb2.Change]) -> Iterator[str]:
    """What is in force now, engine by engine."""
    for one in changes:
        if one.good:
            yield f"{'ok':<8}{one.engine}: {_said(action, one)}"
        else:
            said = one.refusal
            hint = f". {said.hint}" if said.hint else ""
            yield f"{'FAILED':<8}{one.engine}: {said.subject}: found {said.found}, expected {said.expected}{hint}"


def _said(action: str, change: tap_pb2.Change) -> str:
    if action == "off":
        return "NOT WATCHED from now on: what it is fed counts as missed (`blind`) until `saewatch tap on`"
    if action == "on":
        return "watched again"
    watched = f"{change.slots} slots are watched, watch set {change.watch_digest[:SHORT]}"
    if action == "watch":
        return f"{change.weights_digest[:SHORT]}: from the next step on {watched}"
    if change.applied == tap_pb2.APPLIED_ALREADY:
        return f"{change.weights_digest[:SHORT]} was in force already: nothing is changed"
    if change.applied == tap_pb2.APPLIED_RELABELLED:
        return f"{change.weights_digest[:SHORT]} has other labels from now on; the engine is not touched"
    where = f" at {change.opened.hook_point}, stream {change.opened.number}" if change.HasField("opened") else ""
    return f"{change.weights_digest[:SHORT]} is in force{where}; {watched}"
