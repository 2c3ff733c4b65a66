"""A recording of written requests, as an engine and its API server would have sent them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saewatch.core.batch import Reason, WatchSet
from saewatch.core.marks import Happening, RecordingHead
from saewatch.core.recording import Writer
from saewatch.core.records import RequestEnd, RequestLabel, RequestStart
from saewatch.edge import dictionaries
from saewatch.monitor.tables import KnownDictionary
from tests import fakes
from tests.dictionary.test_calibration import KNOWN, LATENT

SLOT = 2
"""Of threat.l1."""
POLICY: dict[str, Any] = {
    "policy": "trust",
    "rules": [{"id": "threat", "severity": "high", "when": {"feature": LATENT.id, "above": 2.0}}],
}
VALUES = (0.0, 1.0, 3.0, 5.0)
"""What threat.l1 is on the third of four tokens of each request; 0: it does not fire."""


def recording(
    path: Path,
    values: Sequence[float] = VALUES,
    *,
    known: KnownDictionary = KNOWN,
    watch: WatchSet | None = None,
    seconds: float = 60.0,
    traffic_class: str = "live",
    missed: int = 0,
    fed: int = 4,
    unfinished: bool = False,
) -> Path:
    """Requests of four tokens, one a second, ``client-0`` and so on; of each ``missed`` tokens more are not seen.
    The engine says that it fed ``fed`` and these: the tokens of a lost frame are told by nothing else.

    Where ``unfinished``, the last one does not end.
    """
    out = io.BytesIO()
    writer = Writer(out, RecordingHead(program="0.1.0", began_ns=0))
    folder = fakes.write_bundle(path.with_suffix(".bundle"), known)
    writer.sheets(known.weights_digest, dictionaries.files(folder))
    writer.happens(1, 1, Happening.CONNECTED)
    writer.write(1, 1, fakes.stream_open(known))
    writer.write(1, 1, watch or fakes.watch_set(known))
    step = int(seconds * 1e9 / max(1, len(values)))
    for number, value in enumerate(values):
        now = 1 + number * step
        label = RequestLabel(
            key=fakes.key(number), client_id=f"client-{number}", tenant="acme", traffic_class=traffic_class
        )
        writer.write(1, now, label)
        writer.write(1, now, RequestStart(request=number + 1, engine_id=fakes.engine_id(number), prompt_len=1))
        firings = [(2, SLOT, value)] if value else []
        gone = [(number + 1, Reason.NO_SLOT, missed)] if missed else []
        batch = fakes.batch([(number + 1, 0, 4)], firings, seq=number + 1, time_ns=now, missed=gone)
        writer.write(1, now, batch)
        if not unfinished or number < len(values) - 1:
            writer.write(1, now, RequestEnd(request=number + 1, fed=fed + missed, emitted=1))
    writer.happens(1, 1 + int(seconds * 1e9), Happening.FRAMES)
    writer.close()
    path.write_bytes(out.getvalue())
    return path
