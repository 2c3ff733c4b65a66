"""One call to a running sidecar, and what went wrong with it in our words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from saewatch.core.errors import AccessError, SaewatchError, UnreachableError

T = TypeVar("T")

_UNREACHED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_REFUSAL = "grpc-status-details-bin"
"""Only the sidecar itself sends this along."""
_SAID = re.compile(
    r"(?P<subject>.+?): found (?P<found>.+?), expected (?P<expected>.+?)(?:\. (?P<hint>.+))?", flags=re.DOTALL
)


def ask(address: str, call: Callable[[grpc.Channel], T]) -> T:
    """What ``call`` gets over a channel to ``address``.

    Raises `UnreachableError` for nobody there or nobody behind it, another `SaewatchError` for what was refused.
    """
    with grpc.insecure_channel(address) as channel:
        try:
            return call(channel)
        except grpc.RpcError as error:
            raise told(address, error) from None  # gRPC's own text is long and says nothing more


def told(address: str, error: Any) -> SaewatchError:
    """What a failed call says."""
    code = error.code()
    if _REFUSAL in dict(error.trailing_metadata() or ()) and (said := _SAID.fullmatch(error.details() or "")):
        kind = UnreachableError if code in _UNREACHED else SaewatchError
        return kind(said["subject"], found=said["found"], expected=said["expected"], hint=said["hint"] or "")
    if code in _UNREACHED:
        hint = "Is `saewatch serve` running, and is this its gRPC address?"
        return UnreachableError(address, found="no answer", expected="a sidecar", hint=hint)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        hint = "Update the sidecar: it is older than this command."
        return SaewatchError(address, found="an unknown call", expected="a sidecar that has it", hint=hint)
    return AccessError(address, found=code.name, expected="an answer")
