"""Bounds: each has its reason beside it, and those that depend on one another agree."""

from __future__ import annotations

import ast
import inspect
import socket
from itertools import pairwise

import numpy as np

from saewatch.core import limits


def test_every_bound_is_a_positive_integer_with_a_reason() -> None:
    body = ast.parse(inspect.getsource(limits)).body
    found = 0
    for statement, after in pairwise(body):
        if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
            continue
        name = statement.targets[0].id
        assert type(getattr(limits, name)) is int, name
        assert getattr(limits, name) > 0, name
        if name in {"KIB", "MIB"}:
            continue
        found += 1
        reason = after.value if isinstance(after, ast.Expr) else None
        assert isinstance(reason, ast.Constant), f"{name} has no reason"
        assert len(str(reason.value)) > 20, f"{name} has no reason"
    assert found > 25


def test_columns_hold_what_their_bounds_allow() -> None:
    slots, positions, numbers = (int(np.iinfo(kind).max) for kind in (np.uint16, np.int32, np.int64))
    assert (slots, positions, numbers) == (limits.WATCH_SLOTS - 1, limits.POSITION_MAX, limits.COUNT_MAX)
    assert np.iinfo(np.int32).max >= limits.BATCH_ROWS
    assert np.iinfo(np.uint32).max >= limits.LATENTS


def test_bounds_that_depend_on_one_another_agree() -> None:
    assert limits.TEXT_BYTES < limits.FRAME_BYTES < limits.QUEUE_BYTES < limits.REPLAY_BYTES
    assert limits.LABEL_BYTES <= limits.TEXT_BYTES
    assert limits.FEATURES <= limits.WATCH_SLOTS
    assert limits.SERIES_DEFAULT <= limits.SERIES_MAX
    assert limits.BEAT_INTERVAL_NS < limits.BLIND_AFTER_NS
    assert limits.TENSOR_HEADER_BYTES < limits.TENSOR_FILE_BYTES


def test_a_frame_passes_a_unix_socket_with_default_buffers() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        left.settimeout(0)
        assert left.send(bytes(limits.FRAME_BYTES)) == limits.FRAME_BYTES
        assert len(right.recv(2 * limits.FRAME_BYTES)) == limits.FRAME_BYTES
