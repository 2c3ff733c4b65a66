"""The compiler of a backend that compiles nothing: with TRITON_INTERPRET it is never asked to."""

from __future__ import annotations

from typing import Any

from triton.backends.compiler import BaseBackend


class InterpretedBackend(BaseBackend):  # type: ignore[misc]  # triton has no annotations
    """Exists; Triton asks for a class."""

    @staticmethod
    def supports_target(target: Any) -> bool:
        """No target."""
        return bool(target is None)

    def hash(self) -> str:
        """Of what it generates: nothing."""
        return "interpreted"

    def parse_options(self, options: Any) -> Any:
        """Never called."""
        raise NotImplementedError

    def add_stages(self, stages: Any, options: Any) -> None:
        """Never called."""
        raise NotImplementedError

    def load_dialects(self, context: Any) -> None:
        """Never called."""
        raise NotImplementedError

    def get_module_map(self) -> dict[str, Any]:
        """No module has a variant of its own."""
        return {}
