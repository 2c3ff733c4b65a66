"""What becomes of the weights of a running worker's model, by the calls of vLLM that put them away or change them.

Whatever fires is said of weights that a dictionary was made for. So when they go away or begin to change the watch is
told to *pause*: from there on every step is counted and none is seen. It may begin *again* when the weights are there,
and either the same that were put away, or read anew from a checkpoint on disk, which is then compared with what was
known of the model at the start (`Control.again`). Weights from anywhere else are nobody's: the watch stays blind with
`CHANGED`, until a checkpoint that fits is loaded, or the engine starts anew.

=========================  ============================================================================================
call of the worker         what it means here
=========================  ============================================================================================
``sleep``, ``wake_up``     memory goes and comes back by tags, at level 1 with the weights, at level 2 without them
``reload_weights``         a checkpoint from disk; or a caller's tensors, or some in the layout of kernels
``reset_weights``          all of them are 0
=========================  ============================================================================================

Every rank of an engine is called in the same order, so that all of them come to the same forward pass in `Watch.again`.
`Life` is pure, and owned by the engine's thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from saewatch.core.errors import MisfitError
from saewatch.engine.modelfacts import weights_digest

SLEEP = "sleep"
RELOAD = "reload"
CHANGED = "weights_changed"
"""Why a stream is blind; the first two are also why it ends, when the watch begins again."""

TAGS = frozenset(("weights", "kv_cache"))
"""Of the memory that a sleeping worker gave back: no pass may run before all of it is there again."""
RELOAD_ARGUMENTS = ("weights_iterator", "weights_path", "is_checkpoint_format")
"""Of the model runner's ``reload_weights``, by position."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where weights come from, as vLLM's configuration of the model names it."""

    model: str = ""
    revision: str = ""
    stored: str = ""  # in an object storage

    @classmethod
    def of(cls, config: Any) -> Checkpoint:
        """Where the model of a `VllmConfig` was read from last."""
        model = config.model_config
        return cls(model.model, model.revision or "", model.model_weights or "")


def check_weights(found: Checkpoint, *, start: Checkpoint, digest: str) -> None:
    """MisfitError unless the weights in ``found`` are known to be those of the ``start``, which had this ``digest``.

    Reads all of them once, if they are in a folder; where nobody knows a digest they must come from the same place.
    """
    now = weights_digest(Path(found.model))
    if now != digest or not (now or found == start):
        raise MisfitError(
            "model weights",
            found=now or f"those of {found.model}, of unknown digest",
            expected=digest or f"those of {start.model}",
            hint="Nothing is watched until a checkpoint that fits is loaded, or the engine starts anew.",
        )


class Pausable(Protocol):
    """A rank's watch."""

    def pause(self, reason: str) -> None:
        """Sees nothing from here on."""

    def again(self, ending: str, *, reloaded: bool) -> None:
        """Looks whether it sees, and begins anew; the old streams end with ``ending``."""


class Life:
    """Which weights one worker has; tells its ``watch``, where there is one."""

    def __init__(self, watch: Pausable | None) -> None:
        self._watch = watch
        self._asleep: frozenset[str] = frozenset()
        self._paused = ""  # why; empty: nothing has happened since the watch began
        self._known = True  # they are those of the start, or come from a checkpoint on disk
        self._reloaded = False  # since the watch began

    def sleeps(self, level: int) -> None:
        """``Worker.sleep`` begins; from level 2 on nothing keeps the weights."""
        self._asleep = TAGS
        self._known = self._known and level < 2
        self._pause(SLEEP)

    def wakes(self, tags: Sequence[str] | None) -> None:
        """``Worker.wake_up`` is done; None: all of it."""
        self._asleep = frozenset() if tags is None else self._asleep - set(tags)
        self._settle()

    def changes(self, reason: str) -> None:
        """The weights begin to change."""
        self._known = False
        self._pause(reason)

    def reloads(self, args: Sequence[Any], named: Mapping[str, Any]) -> None:
        """``Worker.reload_weights`` is done, with these arguments."""
        given = dict(zip(RELOAD_ARGUMENTS, args, strict=False)) | dict(named)
        from_disk = given.get("weights_iterator") is None and bool(given.get("is_checkpoint_format", True))
        self._known = self._reloaded = from_disk
        self._settle()

    def _pause(self, reason: str) -> None:
        self._paused = reason
        if self._watch is not None:
            self._watch.pause(reason)

    def _settle(self) -> None:
        """Begins again when everything is there, and it is known what."""
        if not self._paused or self._asleep:
            return
        if not self._known:
            self._pause(CHANGED)
            return
        ending, reloaded = self._paused, self._reloaded
        self._paused, self._reloaded = "", False
        if self._watch is not None:
            self._watch.again(ending, reloaded=reloaded)
