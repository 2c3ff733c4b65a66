"""The sidecar's configuration, `saewatch.yaml`: read strictly, refused at start with the field that is wrong.

Every key has a default that is safe on one machine: without a file the sidecar listens on a socket in the user's own
runtime folder and on loopback ports. Values never appear in messages beyond the field that is wrong, and unknown keys
are refused, so that a misspelt one cannot switch anything off.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from saewatch.core import limits
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.core.served import default_store
from saewatch.monitor.policy import rule
from saewatch.monitor.policy.rule import Policy

CONFIG_BYTES = limits.MIB
PATH_BYTES = 107


def default_socket() -> str:
    """In the user's runtime folder, or in one of our own under /tmp where there is none."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = runtime if runtime and Path(runtime).is_dir() else f"/tmp/saewatch-{os.geteuid()}"  # noqa: S108 - checked by the listener
    return f"{folder}/saewatch.sock"


def default_history() -> str:
    """In the user's folder for state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = state if state.startswith("/") else os.path.expanduser("~/.local/state")  # noqa: PTH111 - Path raises without a home
    return f"{folder}/saewatch/history.db"


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("host:port")
    return text


def _path(text: str) -> str:
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):  # YAML can spell both
        raise ValueError("a path without NUL or lone surrogates")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/") or len(text.encode()) > PATH_BYTES:
        raise ValueError(f"an absolute path of at most {PATH_BYTES} bytes")
    return text


_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
"""A name, or an address of version 4: what a resolver takes without raising."""


def _webhook_url(text: str) -> str:
    """https, or http to this machine: an alert names requests and tenants."""
    try:
        url = urlsplit(text)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and url.username is None and not url.fragment
        good = good and (url.port is None or url.port > 0) and text.isascii() and text.isprintable()
        good = good and (":" in str(url.hostname) or _HOST.fullmatch(str(url.hostname)) is not None)
        local = url.hostname in {"localhost", "127.0.0.1", "::1"}
    except ValueError:
        good = local = False
    if not good or (url.scheme == "http" and not local):
        raise ValueError("https://HOST/PATH, or http:// to a loopback address; without a user's name")
    return text


Address = Annotated[str, AfterValidator(_address)]
BundlePath = Annotated[str, AfterValidator(_path)]
SocketPath = Annotated[str, AfterValidator(_path), AfterValidator(_absolute)]


class Section(BaseModel):
    """What every section keeps to."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Grpc(Section):
    """The gRPC service."""

    listen: Address = "127.0.0.1:50071"
    """Host and port; port 0 takes any free one."""
    subscribers: Annotated[int, Field(ge=1, le=limits.SUBSCRIBERS)] = limits.SUBSCRIBERS
    """WatchFirings calls at a time."""


class Web(Section):
    """Metrics and health."""

    listen: Address = "127.0.0.1:9108"
    """Host and port; port 0 takes any free one."""


class Bounds(Section):
    """Bounds that may be chosen; all others are fixed."""

    series: Annotated[int, Field(ge=1, le=limits.SERIES_MAX)] = limits.SERIES_DEFAULT
    """Series of one metric."""
    replay_mib: Annotated[int, Field(ge=1, le=1024)] = limits.REPLAY_BYTES // limits.MIB
    """Events kept for subscribers that fall behind or come back."""


class History(Section):
    """The store of firings and requests that queries read."""

    path: BundlePath = Field(default_factory=default_history)
    """Its file, in the user's folder for state unless it is named; "" keeps none. A relative path begins at the
    configuration's own folder."""
    keep_hours: Annotated[int, Field(ge=1, le=limits.HISTORY_HOURS_MAX)] = 72
    """Hours after which what was stored is removed."""
    max_mib: Annotated[int, Field(ge=limits.HISTORY_MIB_MIN, le=limits.HISTORY_MIB_MAX)] = 1024
    """The file with its write-ahead log; the oldest is removed before it grows beyond."""


class Webhook(Section):
    """Where alerts are sent, signed as Standard Webhooks says."""

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,31}$")]
    """In metrics and in the log, in which its URL never is."""
    url: Annotated[str, AfterValidator(_webhook_url), Field(max_length=2000)]
    """https, or http on this machine."""
    secret_file: BundlePath = ""
    """A file with its secret, `whsec_` and base64; a relative path begins at the configuration's own folder."""
    secret_env: Annotated[str, Field(pattern="^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""
    """Or a variable of the environment."""
    states: tuple[Literal["pending", "active", "resolved"], ...] = ("active", "resolved")
    """States that are sent."""
    severities: tuple[Literal["low", "medium", "high", "critical"], ...] = ()
    """Severities that are sent; none named: all."""

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if bool(self.secret_file) == bool(self.secret_env):
            raise ValueError("one of secret_file and secret_env")
        return self


Webhooks = Annotated[tuple[Webhook, ...], Field(max_length=limits.WEBHOOKS)]


class Canaries(Section):
    """Prompts that are known to make features fire or not, sent through the engine: docs/canaries.md."""

    file: BundlePath = ""
    """Their file, one JSON object a line; "" sends none. A relative path begins at the configuration's own folder."""
    panel: BundlePath = ""
    """A file of fixed prompts, one `{"prompt": "…"}` a line: docs/drift.md. It needs `file`, and at most 600 s. A
    relative path begins at the configuration's own folder."""
    url: str = "http://127.0.0.1:8000/v1"
    """The engine's OpenAI API, on this machine."""
    model: str = ""
    """As the engine names it (`--served-model-name`)."""
    period_s: Annotated[int, Field(ge=10, le=86_400)] = 300
    """A feature without a passing canary for so long is blind. Each canary is sent twice in it."""
    priority: Annotated[int, Field(ge=0, le=2**31 - 1)] = 100
    """vLLM serves smaller numbers first. It takes none but 0 without `--scheduling-policy priority`."""


class Log(Section):
    """The log, on standard error."""

    level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"


class Config(Section):
    """Everything."""

    socket: SocketPath = Field(default_factory=default_socket)
    """Unix socket that engines connect to."""
    allowed_users: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Users, by number, that may connect besides root and our own. They must be able to enter the socket's folder."""
    dictionaries: tuple[BundlePath, ...] = ()
    """Folders of bundles; a relative path begins at the configuration's own folder."""
    policies: tuple[BundlePath, ...] = ()
    """Files of rules; a relative path begins at the configuration's own folder."""
    webhooks: Webhooks = ()
    """Where alerts are sent."""
    baselines: tuple[BundlePath, ...] = ()
    """Folders of baselines, one for each dictionary; a relative path begins at the configuration's own folder."""
    canaries: Canaries = Field(default_factory=Canaries)
    store: BundlePath = Field(default_factory=default_store)
    """The store whose bundles are applied to engines, in the user's folder for data unless it is named; it need not be
    there, and "" reads none. A relative path begins at the configuration's own folder."""
    grpc: Grpc = Field(default_factory=Grpc)
    web: Web = Field(default_factory=Web)
    limits: Bounds = Field(default_factory=Bounds)
    history: History = Field(default_factory=History)
    log: Log = Field(default_factory=Log)


def load(path: Path | None) -> Config:
    """The configuration in ``path``, or the default. Raises `ConfigError`, or `UnreachableError` for no such file."""
    if path is None:
        return Config()
    return read(read_yaml(path), folder=path.resolve().parent, subject=str(path))


def read(values: object, *, folder: Path, subject: str = "saewatch.yaml") -> Config:
    """The configuration of these values; relative paths begin at ``folder``."""
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError(subject, found=type(values).__name__, expected="a mapping of keys to values")
    try:
        config = Config.model_validate(_tuples(values))
    except ValidationError as error:
        raise _refused(error) from None  # the original would show values
    found: dict[str, object] = {
        name: tuple(str(folder / one) for one in getattr(config, name))
        for name in ("dictionaries", "policies", "baselines")
    }
    if config.history.path and "path" in config.history.model_fields_set:
        found["history"] = config.history.model_copy(update={"path": str(folder / config.history.path)})
    if config.canaries.file or config.canaries.panel:
        of = {name: str(folder / path) for name in ("file", "panel") if (path := getattr(config.canaries, name))}
        found["canaries"] = config.canaries.model_copy(update=of)
    if config.store and "store" in config.model_fields_set:
        found["store"] = str(folder / config.store)
    found["webhooks"] = tuple(
        one.model_copy(update={"secret_file": str(folder / one.secret_file)}) if one.secret_file else one
        for one in config.webhooks
    )
    return config.model_copy(update=found)


def read_policies(paths: Iterable[str]) -> tuple[Policy, ...]:
    """The policies in these files. `ConfigError` for one that is wrong, or for two of one name."""
    found = tuple(read_policy(Path(path)) for path in paths)
    seen: set[str] = set()
    for one in found:
        if one.name in seen:
            raise ConfigError("policies", found=f"two policies called {one.name}", expected="names that differ")
        seen.add(one.name)
    return found


def read_policy(path: Path) -> Policy:
    """The policy in a file. `ConfigError` for one that is wrong, `UnreachableError` for one that cannot be read."""
    return rule.read(read_yaml(path), str(path))


def read_yaml(path: Path, most: int = CONFIG_BYTES) -> object:
    """What a file holds as YAML, strictly. `ConfigError` for one that is none, `UnreachableError` without a file."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UnreachableError(str(path), found=error.strerror, expected="a file that can be read") from error
    if len(data) > most:
        raise ConfigError(str(path), found="a larger file", expected=f"at most {most} bytes")
    try:
        return yaml.load(data, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader that also refuses repeated keys
    except RecursionError:
        raise ConfigError(str(path), found="more levels than can be read", expected="YAML") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or "what is no YAML"
        found = said.removeprefix("but ").removeprefix("found ")
        raise ConfigError(where, found=found, expected="YAML") from None  # the original would show values


_SCALAR_ERRORS = (ValueError, LookupError, TypeError, AttributeError)
"""What PyYAML lets through for a scalar that is not what it looks like: ``!!int ""``, the 31st of February."""
_INTEGER_BITS = 1024
"""Of an integer, as many as the largest float has: Python refuses to print much longer ones."""
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _UniqueKeys(yaml.SafeLoader):
    """What YAML takes without a word, and this does not.

    The last of two equal keys; aliases, which grow without end; and numbers that are not what they look like: YAML 1.1
    reads 1:30 as 90, and 010 as 8.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.get_mark()
            raise yaml.constructor.ConstructorError(None, None, "an alias, which is not taken: write it out", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:  # noqa: FBT001, FBT002 - yaml's signature
        try:
            found = super().construct_object(node, deep)
        except _SCALAR_ERRORS:
            problem = f"a value that is no {node.tag.rpartition(':')[2]:.20}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None
        if isinstance(found, int) and found.bit_length() > _INTEGER_BITS:
            problem = f"an integer of {found.bit_length()} bits"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return found

    def construct_scalar(self, node: Any) -> Any:
        found = super().construct_scalar(node)
        if node.tag in _NUMBERS and re.fullmatch(r"[+-]?(0[0-7_]+|.*:.*)", found):
            problem = f"the number {found:.20}, which YAML reads as another one"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return found

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - yaml's signature
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key.start_mark)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} twice", key.start_mark)
            seen.add(name)
        return dict(super().construct_mapping(node, deep))


def _tuples(value: Any) -> Any:
    """YAML's lists as tuples: frozen settings hold no lists, and strict ones take none."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


_WORDS = {
    r"^a valid tuple$": "a list",
    r"^a valid string$": "text",
    r"^a valid dictionary or (instance|object) .*": "a mapping of keys to values",
}
"""YAML's words for what pydantic names after Python's types."""


def _refused(error: ValidationError) -> ConfigError:
    """The first thing that pydantic found, in our words."""
    first = error.errors(include_url=False, include_input=True)[0]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        known = ", ".join(_keys(first["loc"][:-1]))
        return ConfigError(field, found="an unknown key", expected=f"one of {known}")
    expected = str(first.get("ctx", {}).get("error", "")) or first["msg"].removeprefix("Input should be ")
    for theirs, ours in _WORDS.items():
        expected = re.sub(theirs, ours, expected)
    return ConfigError(field, found=_shown(first["input"]), expected=expected)


def _keys(path: tuple[int | str, ...]) -> list[str]:
    """The keys that a section takes."""
    section: Any = Config
    for part in path:  # a number is a place in a tuple of sections
        section = section.model_fields[part].annotation if isinstance(part, str) else get_args(section)[0]
    return list(section.model_fields)


def _shown(value: object) -> str:
    """The value of the one field that is wrong: short, and only where it is a scalar."""
    if value is None:
        return "nothing"
    return f"{value!r:.80}" if isinstance(value, str | int | float) else type(value).__name__
