"""A recording of texts: what an engine would have sent for them, from the tap on a transformers model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from saewatch.core.batch import FiringBatch, Origin, Reason, WatchSet
from saewatch.core.marks import Happening, RecordingHead
from saewatch.core.recording import Writer
from saewatch.core.records import RequestEnd, RequestLabel, RequestStart
from saewatch.score import Scored, Scorer
from tests import fakes


def recorded(path: Path, model: Path, bundle: Path, texts: Path) -> tuple[Path, dict[str, list[int]]]:
    """The file, and each request's token ids by the client's name. Each comes twice, first with other values."""
    scorer = Scorer.load(model, bundle, progress=False)
    given = [json.loads(line)["text"] for line in texts.read_text().splitlines()]
    out = io.BytesIO()
    writer = Writer(out, RecordingHead(program="0.1.0", began_ns=0))
    writer.happens(1, 1, Happening.CONNECTED)
    writer.write(1, 1, scorer.opening)
    writer.write(1, 1, watch_set(scorer))
    ids: dict[str, list[int]] = {}
    for number, one in enumerate(scorer.each(given), start=1):
        ids[f"client-{number}"] = one.ids.tolist()
        writer.write(1, 1, RequestLabel(key=fakes.key(number), client_id=f"client-{number}"))
        start = RequestStart(request=number, engine_id=fakes.engine_id(number), prompt_len=one.prompt_len)
        writer.write(1, 1, start)
        for seq, (origin, scale) in enumerate(((Origin.COMPUTED, 9.0), (Origin.RECOMPUTED, 1.0))):
            writer.write(1, 1, batch(scorer, one, request=number, seq=2 * number + seq, origin=origin, scale=scale))
        writer.write(1, 1, RequestEnd(request=number, fed=len(one.excluded), emitted=0))
    writer.close()
    path.write_bytes(out.getvalue())
    return path, ids


def watch_set(scorer: Scorer) -> WatchSet:
    """What the slots of the scorer's table read."""
    table = scorer.table
    columns = {"row": table.unit, "floor": table.floor, "kind": table.kind}
    numbers = {"stream": scorer.opening.stream, "watch": table.watch, "first": 0, "total": table.slots}
    return WatchSet(**numbers, **columns, digest=table.digest)  # type: ignore[arg-type]  # columns and numbers


def batch(scorer: Scorer, one: Scored, *, request: int, seq: int, origin: Origin, scale: float) -> FiringBatch:
    """All of a text in one step: a span for each stretch that is not excluded."""
    read = np.flatnonzero(~one.excluded)
    starts = [at for at in read.tolist() if at == read[0] or one.excluded[at - 1]]
    row_of = {position: row for row, position in enumerate(read.tolist())}
    pairs = sorted(
        {
            (row_of[at], slot, value)
            for at, slot, value in zip(one.position.tolist(), one.slot.tolist(), one.value.tolist(), strict=True)
        }
    )
    missed = int(one.excluded.sum()) if origin is Origin.COMPUTED else 0  # a position counts once
    return FiringBatch(
        stream=scorer.opening.stream,
        watch=scorer.table.watch,
        seq=seq,
        step=seq,
        time_ns=1,
        request=np.full(len(starts), request, np.uint32),
        span_start=np.array([*(row_of[at] for at in starts), len(read)], np.int32),
        position=np.array(starts, np.int32),
        origin=np.full(len(starts), origin, np.uint8),
        missed_request=np.array([request] if missed else [], np.uint32),
        missed_reason=np.array([Reason.EXCLUDED] if missed else [], np.uint8),
        missed_tokens=np.array([missed] if missed else [], np.int32),
        row=np.array([row for row, _, _ in pairs], np.uint32),
        slot=np.array([slot for _, slot, _ in pairs], np.uint16),
        value=np.array([value * scale for _, _, value in pairs], np.float32),
    )
