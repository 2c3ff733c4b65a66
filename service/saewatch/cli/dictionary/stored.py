"""What the verbs on the store share: where it is, who acts, and how a bundle is named."""

from __future__ import annotations

import argparse
import getpass
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from saewatch.cli.terminal import printable
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.manifest import BUNDLE_FILE
from saewatch.core.served import PLACE, default_store
from saewatch.dictionary import signatures
from saewatch.dictionary.contents import Contents, read_folder
from saewatch.dictionary.journal import NOTHING
from saewatch.dictionary.registry import NAMES, NEVER, Registry, Slot, read_slot
from saewatch.dictionary.signatures import Trusted
from saewatch.dictionary.store import BUNDLES, Store

_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{6,64})")
NAMED = "a digest, its first 6 digits or more, or SLOT@REF"


def store_argument(parser: argparse.ArgumentParser) -> None:
    """The store."""
    says = f"the store's folder (${PLACE}, or saewatch/dictionaries in the user's folder for data)"
    parser.add_argument("--store", type=Path, metavar="DIR", help=says)


def trusted_argument(parser: argparse.ArgumentParser) -> None:
    """Whose signatures count."""
    says = "a folder of public keys, NAME.pub; without it the store's own"
    parser.add_argument("--trusted", type=Path, metavar="DIR", help=says)


def trusted(options: argparse.Namespace, registry: Registry | None) -> Sequence[Trusted]:
    """Those keys; none where neither is there."""
    if options.trusted is not None:
        return signatures.trusted(options.trusted)
    return signatures.trusted_of(registry.store.root) if registry else ()


def actor_argument(parser: argparse.ArgumentParser) -> None:
    """Who acts."""
    parser.add_argument("--actor", metavar="NAME", help="who does it, for the journal (the user)")


def place(options: argparse.Namespace) -> Path:
    """Where the store is."""
    if options.store is not None:
        return Path(options.store)
    return Path(default_store())


def opened(options: argparse.Namespace, *, writes: bool = False, create: bool = False) -> Registry:
    """The store's registry; where the verb writes, what a crash left is recovered first, and said."""
    registry = Registry(Store(place(options), create=create))
    if writes:
        with registry.writing() as recovered:
            for note in recovered:
                print(f"saewatch: recovered: {note}", file=sys.stderr)
    return registry


def opened_if_any(options: argparse.Namespace) -> Registry | None:
    """The same for a verb that a bundle's folder is enough for; None where there is no store."""
    try:
        return opened(options)
    except UnreachableError:
        return None


def actor(options: argparse.Namespace) -> str:
    """Who acts, as was said or as the system knows the user. ConfigError where it does not."""
    if options.actor:
        return str(options.actor)
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:
        raise ConfigError("--actor", found="no user of a name", expected="who does it") from error


def now_ms() -> int:
    """The time, since 1970."""
    return time.time_ns() // 1_000_000


def digest_of(registry: Registry, text: str) -> str:
    """The bundle that ``text`` names. ConfigError where none or several do."""
    slot, at, ref = text.partition("@")
    if at:
        if ref not in NAMES:
            raise ConfigError("ref", found=f"{ref!r:.80}", expected=f"one of {', '.join(NAMES)}")
        found = registry.current(read_slot(slot)).get(ref)
        if found is None:
            raise ConfigError(text, found="no bundle", expected="a ref that points to one")
        return found
    match = _PREFIX.fullmatch(text)
    if match is None:
        raise ConfigError("bundle", found=f"{text!r:.80}", expected=NAMED)
    hits = [digest for digest in registry.store.digests(BUNDLES) if digest.startswith(f"sha256:{match[1]}")]
    if len(hits) != 1:
        hint = "`saewatch dictionary list` names what there is."
        raise ConfigError("bundle", found=f"{len(hits)} that begin with {match[1]}", expected="one", hint=hint)
    return hits[0]


def expected(registry: Registry, text: str) -> str:
    """The bundle that is expected; nothing for ``none``. A digest need not be of the store."""
    if text == NEVER:
        return NOTHING
    return text if re.fullmatch(r"sha256:[0-9a-f]{64}", text) else digest_of(registry, text)


def contents_of(registry: Registry | None, text: str) -> Contents:
    """The bundle in a folder, or the one of the store that ``text`` names."""
    if (Path(text) / BUNDLE_FILE).is_file():
        return read_folder(Path(text))
    if registry is None or not ("@" in text or _PREFIX.fullmatch(text)):
        found = "a folder without it" if Path(text).is_dir() else "no such folder"
        other = "; there is no store" if registry is None else f"; or {NAMED}"
        raise ConfigError(f"bundle {text!r:.80}", found=found, expected=f"a folder with {BUNDLE_FILE} in it{other}")
    return registry.store.contents(digest_of(registry, text))


def damage(journals: Mapping[Slot, str]) -> Iterator[str]:
    """A line for each slot whose refs are not known."""
    for slot, why in journals.items():
        yield f"{slot}: where it points is not known, its journal is DAMAGED: {why}"


def show(lines: list[str]) -> None:
    """Lines for people."""
    print("\n".join(map(printable, lines)))
