"""New levels of features that were accepted: files beside a baseline, each an attestation that names what it amends.

``accepted-2.json`` amends ``baseline.json``, ``accepted-3.json`` amends that one, and so on: one that is missing, was
changed or is of another baseline breaks the chain, and the folder is refused. Numbers of a baseline are never fitted
again by themselves; a level changes only here, with who said so and why.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from saewatch.core import canonical, limits
from saewatch.core.attestation import Attestation, read_attestation
from saewatch.core.canonical import decimal_text
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.fields import Fields
from saewatch.dictionary.disk import Disk
from saewatch.monitor.drift.known import KnownBaseline

KIND = "baseline_amendment"
AMENDMENTS = 1000
"""Of one baseline: three a day in a year. With more it is another one."""
TIMES_MIN, TIMES_MAX = 0.01, 100.0
"""By how much a level may be changed: beyond it, a feature is another one."""
REASON_BYTES = 1024


def amended(folder: Path, known: KnownBaseline) -> KnownBaseline:
    """With the levels that were accepted. `ConfigError` or `ManifestError` where the chain is broken."""
    while (path := _path(folder, known)).exists():
        if known.fitted.baseline.version > AMENDMENTS:
            raise ConfigError(str(folder), found=f"over {AMENDMENTS} amendments", expected="a new baseline")
        known = _with(known, _read(path, known))
    later = sorted(
        one.name for one in folder.glob("accepted-*.json") if version_of(one) > known.fitted.baseline.version
    )
    if later:
        raise ConfigError(str(folder), found=later[0], expected=f"{path.name} before it", hint="A file is missing.")
    return known


def accept(
    folder: Path, known: KnownBaseline, levels: Mapping[str, float], *, actor: str, reason: str, time: str
) -> KnownBaseline:
    """Writes an amendment of ``known``, as it was read from ``folder``. `ConfigError` for one that makes no sense."""
    body: dict[str, canonical.Json] = {
        "amends": known.digest,
        "version": known.fitted.baseline.version + 1,
        "levels": [{"feature": name, "times": decimal_text(times)} for name, times in sorted(levels.items())],
        "actor": actor,
        "reason": reason,
        "time": time,
    }
    attestation, path = Attestation(kind=KIND, weights=known.about.weights, body=body), _path(folder, known)
    found = _with(known, _checked(attestation, known, "amendment"))
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        Disk().create(partial, [attestation.data()])
        os.link(partial, path)  # whole or not at all: half of one would break the chain, and takes nobody's place
    except FileExistsError as error:
        raise ConfigError(str(path), found="somebody else's amendment", expected="no such file yet") from error
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror or str(error), expected="a file to write") from error
    finally:
        partial.unlink(missing_ok=True)
    return found


def version_of(path: Path) -> int:
    """The version in an amendment's name; the largest one where it is no number, so that nothing is overlooked."""
    text = path.stem.partition("-")[2]
    return int(text) if text.isdecimal() and len(text) < 10 else 2**31


def _path(folder: Path, known: KnownBaseline) -> Path:
    return folder / f"accepted-{known.fitted.baseline.version + 1}.json"


def _read(path: Path, known: KnownBaseline) -> Attestation:
    try:
        with path.open("rb") as file:
            data = file.read(limits.MANIFEST_BYTES + 1)
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror or str(error), expected="a readable file") from error
    if len(data) > limits.MANIFEST_BYTES:
        raise ConfigError(str(path), found="a larger file", expected=f"at most {limits.MANIFEST_BYTES} bytes")
    return _checked(read_attestation(data, subject=str(path), weights=known.about.weights), known, str(path))


def _checked(attestation: Attestation, known: KnownBaseline, subject: str) -> Attestation:
    """It is the next one, of features that there are."""
    if attestation.kind != KIND:
        raise ConfigError(subject, found=f"an attestation of kind {attestation.kind}", expected=KIND)
    body = Fields(dict(attestation.body), f"{subject}: ")
    if (digest := body.digest("amends")) != known.digest:
        hint = "A file was changed, taken away, or is of another baseline."
        raise ConfigError(f"{subject}: amends", found=digest, expected=known.digest, hint=hint)
    body.integer("version", known.fitted.baseline.version + 1, known.fitted.baseline.version + 1)
    names = [_feature(one) for one in body.objects("levels", limits.WATCH_SLOTS)]
    unknown = sorted(set(names) - set(known.features))
    if unknown or len(set(names)) != len(names) or not names:
        found = f"{unknown[0]}, which it has not" if unknown else "none, or one of them twice"
        raise ConfigError(f"{subject}: levels", found=found, expected="features of the baseline, each once")
    body.text("actor")
    body.text("reason", limit=REASON_BYTES)
    body.text("time")
    body.close()
    return attestation


def _feature(one: Fields) -> str:
    name = one.text("feature")
    one.decimal("times", TIMES_MIN, TIMES_MAX)
    one.close()
    return name


def _with(known: KnownBaseline, attestation: Attestation) -> KnownBaseline:
    levels = Fields(dict(attestation.body), "").objects("levels", limits.WATCH_SLOTS)
    times = {known.features.index(one.text("feature")): one.decimal("times", TIMES_MIN, TIMES_MAX) for one in levels}
    fitted = dataclasses.replace(known.fitted, baseline=known.fitted.baseline.accepted(times))
    return dataclasses.replace(known, fitted=fitted, digest=attestation.digest)
