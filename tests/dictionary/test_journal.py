"""Journals: lines that hold one another."""

from __future__ import annotations

from dataclasses import replace

import hypothesis
import pytest
from hypothesis import strategies

from saewatch.core import limits
from saewatch.core.errors import ManifestError
from saewatch.dictionary.journal import NOTHING, GateRecord, Journal, Line, read_journal

A, B, C = ("sha256:" + letter * 64 for letter in "abc")


def chain(*moves: tuple[str, str, str]) -> bytes:
    """(act, ref, to) of each line."""
    lines: list[Line] = []
    for act, ref, after in moves:
        before = next((line.after for line in reversed(lines) if line.ref == ref), NOTHING)
        lines.append(
            Line(
                seq=len(lines) + 1,
                previous=lines[-1].digest if lines else NOTHING,
                slot="demo/resid_post.1",
                ref=ref,
                act=act,
                before=before,
                after=after,
                actor="ada",
                reason="why",
                gate=GateRecord(verdict="none"),
                time_ms=5,
            )
        )
    return b"".join(line.data() + b"\n" for line in lines)


def read(data: bytes) -> Journal:
    return read_journal(data, slot="demo/resid_post.1", subject="journal")


MOVES = (("promote", "stable", A), ("promote", "shadow", B), ("promote", "stable", B), ("promote", "stable", A))


def test_lines_come_back() -> None:
    journal = read(chain(*MOVES))
    assert [line.seq for line in journal.lines] == [1, 2, 3, 4]
    assert (journal.current("stable"), journal.current("shadow"), journal.current("candidate")) == (A, B, NOTHING)
    assert b"".join(line.data() + b"\n" for line in journal.lines) == chain(*MOVES)
    assert read(b"") == Journal(())


def test_earlier_bundles_are_those_before_and_never_those_that_were_left() -> None:
    moves = [*MOVES, ("promote", "stable", C)]
    assert read(chain(*moves)).earlier("stable") == [A, B, A]
    moves.append(("rollback", "stable", A))
    assert read(chain(*moves)).earlier("stable") == [A, B]
    moves.append(("rollback", "stable", B))
    assert read(chain(*moves)).earlier("stable") == [A]
    moves.append(("rollback", "stable", C))  # somewhere that was left: from there on as promoted
    assert read(chain(*moves)).earlier("stable") == [A, B]
    assert read(b"").earlier("stable") == []


@hypothesis.given(cut=strategies.integers(0, len(chain(*MOVES))))
def test_a_journal_that_ends_anywhere_has_its_whole_lines(cut: int) -> None:
    data = chain(*MOVES)
    journal = read(data[:cut])
    assert len(journal.lines) == data[:cut].count(b"\n")
    assert journal.size + journal.unfinished == cut
    assert data[: journal.size].endswith(b"\n") or journal.size == 0


@hypothesis.given(at=strategies.integers(0, len(chain(*MOVES[:3])) - 1), byte=strategies.integers(0, 255))
def test_a_changed_byte_is_found(at: int, byte: int) -> None:
    """In all lines but the last, which its ref holds; a newline more or less is found too, or ends it early."""
    data = bytearray(chain(*MOVES))
    hypothesis.assume(data[at] != byte)
    data[at] = byte
    with pytest.raises(ManifestError, match=r"journal: line [1-4]"):
        read(bytes(data))


def test_zeros_at_the_end_are_no_line() -> None:
    """As a file system leaves them when the power goes."""
    data = chain(*MOVES)
    assert (read(data + bytes(50)).unfinished, len(read(data + bytes(50)).lines)) == (50, 4)


def test_lines_that_are_no_moves() -> None:
    line = read(chain(*MOVES)).lines[0]
    for wrong, message in (
        ({"act": "delete"}, "line 1: act: found 'delete'"),
        ({"after": "sha256:0"}, "line 1: to: found 'sha256:0'"),
        ({"before": B}, f"line 1: from: found {B}, expected nothing"),
        ({"before": "b"}, "line 1: from: found 'b', expected a digest, or nothing"),
        ({"seq": 2}, "line 1: found line 2 of demo"),
        ({"gate": GateRecord(verdict="maybe")}, "gate.verdict: found 'maybe'"),
        ({"actor": ""}, "line 1: actor"),
        ({"reason": "x" * limits.JOURNAL_LINE_BYTES}, "expected at most 8192 bytes"),
    ):
        with pytest.raises(ManifestError, match=message):
            read(replace(line, **wrong).data() + b"\n")
    text = line.data().replace(b'"overridden":false', b'"overridden":1')
    with pytest.raises(ManifestError, match="overridden: found 1, expected true or false"):
        read(text + b"\n")
