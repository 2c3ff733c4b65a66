"""saewatch.yaml: what is taken, and how what is not is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from saewatch import config
from saewatch.core import limits
from saewatch.core.errors import ConfigError, UnreachableError


def load(tmp_path: Path, text: str) -> config.Config:
    file = tmp_path / "saewatch.yaml"
    file.write_text(text)
    return config.load(file)


def test_without_a_file_everything_is_on_loopback() -> None:
    found = config.load(None)
    assert (found.grpc.listen, found.web.listen) == ("127.0.0.1:50071", "127.0.0.1:9108")
    assert (found.dictionaries, found.limits.series) == ((), limits.SERIES_DEFAULT)


def test_the_default_socket_is_in_ones_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert config.load(None).socket == f"{tmp_path}/saewatch.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    assert config.load(None).socket.endswith(f"/saewatch-{os.geteuid()}/saewatch.sock")


def test_the_default_history_is_in_ones_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert config.load(None).history.path == f"{tmp_path}/saewatch/history.db"
    for nothing in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", nothing)
        monkeypatch.setenv("HOME", "/somewhere")
        assert config.load(None).history.path == "/somewhere/.local/state/saewatch/history.db"


def test_a_history_may_be_elsewhere_or_nowhere(tmp_path: Path) -> None:
    assert load(tmp_path, "history: {path: h.db}").history.path == str(tmp_path / "h.db")
    assert load(tmp_path, "history: {path: /var/h.db}").history.path == "/var/h.db"
    assert load(tmp_path, 'history: {path: ""}').history.path == ""
    assert load(tmp_path, "history: {keep_hours: 5}").history.path == config.load(None).history.path


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert load(tmp_path, "# nothing\n") == config.load(None)


def test_everything_can_be_said(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """
        socket: /run/saewatch/s.sock
        allowed_users: [1000, 1001]
        dictionaries: [demo, /srv/other]
        grpc: {listen: "[::1]:0", subscribers: 8}
        web: {listen: "localhost:9000"}
        limits: {series: 2000, replay_mib: 8}
        log: {level: debug}
        history: {path: h.db, keep_hours: 24, max_mib: 64}
        """,
    )
    assert found.dictionaries == (str(tmp_path / "demo"), "/srv/other")
    assert (found.socket, found.allowed_users, found.grpc.subscribers) == ("/run/saewatch/s.sock", (1000, 1001), 8)
    assert (found.limits.series, found.limits.replay_mib, found.log.level) == (2000, 8, "debug")
    assert (found.history.keep_hours, found.history.max_mib) == (24, 64)


REFUSED = {
    "unknown key": ("sockets: /x", "sockets", "an unknown key", "socket"),
    "unknown key in a section": ("grpc: {listn: x}", "grpc.listn", "an unknown key", "listen, subscribers"),
    "a number for text": ("socket: 5", "socket", "5", "text"),
    "text for a number": ('limits: {series: "5"}', "limits.series", "'5'", "integer"),
    "truth for a number": ("limits: {series: true}", "limits.series", "True", "integer"),
    "too many": ("limits: {series: 2001}", "limits.series", "2001", "2000"),
    "too few": ("grpc: {subscribers: 0}", "grpc.subscribers", "0", "1"),
    "a history too small": ("history: {max_mib: 31}", "history.max_mib", "31", "32"),
    "a history of no time": ("history: {keep_hours: 0}", "history.keep_hours", "0", "1"),
    "NUL in the history's path": (r'history: {path: "a\0b"}', "history.path", r"'a\x00b'", "without NUL"),
    "no port": ("grpc: {listen: localhost}", "grpc.listen", "'localhost'", "host:port"),
    "no host": ('web: {listen: ":9108"}', "web.listen", "':9108'", "host:port"),
    "a port beyond": ('web: {listen: "x:65536"}', "web.listen", "'x:65536'", "host:port"),
    "a relative socket": ("socket: s.sock", "socket", "'s.sock'", "absolute path"),
    "a long socket": (f"socket: /{'x' * 107}", "socket", "'/xxx", "107 bytes"),
    "an unknown level": ("log: {level: loud}", "log.level", "'loud'", "debug|info"),
    "text for a list": ("dictionaries: demo", "dictionaries", "'demo'", "a list"),
    "a number in a list": ("dictionaries: [demo, 7]", "dictionaries[1]", "7", "text"),
    "nothing for a section": ("grpc:", "grpc", "nothing", "a mapping"),
    "NUL in the socket": (r'socket: "/tmp/a\0b"', "socket", r"'/tmp/a\x00b'", "without NUL"),
    "NUL in a bundle's path": (r'dictionaries: [demo, "a\0b"]', "dictionaries[1]", r"'a\x00b'", "without NUL"),
    "half a letter in a path": (r'dictionaries: ["a\ud800"]', "dictionaries[0]", r"'a\ud800'", "surrogates"),
    "half a letter in the socket": (r'socket: "/a\udc80"', "socket", r"'/a\udc80'", "surrogates"),
    "a negative user": ("allowed_users: [-1]", "allowed_users[0]", "-1", "0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    text, field, found, expected = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert caught.value.subject == field
    assert found in str(caught.value.found)
    assert expected in str(caught.value.expected)


@pytest.mark.parametrize("text", ["[a, b]", "just text", "5"], ids=["a list", "text", "a number"])
def test_what_is_no_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="a mapping"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["a: [", "\tx: 1", "a: !!python/object/apply:os.system [x]", "\x00", "a: &x [*x]", "socket: /a\nsocket: /b"]
)
def test_what_is_no_yaml_of_ours(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"saewatch\.yaml"):
        load(tmp_path, text)


def test_a_key_given_twice_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"line 2: found the key 'socket' twice"):
        load(tmp_path, "socket: /a\nsocket: /b\n")


@pytest.mark.parametrize("key", ["? [a]\n: b", "? {a: b}\n: c", "5: b", "on: b"])
def test_a_key_that_is_no_text_names_its_line(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=r"line 2: found a key that is no text"):
        load(tmp_path, f"socket: /a\n{key}\n")


@pytest.mark.parametrize("value", ['!!int ""', '!!float ""', "!!bool maybe", "!!timestamp never", "2024-99-99"])
def test_a_value_that_is_not_what_its_tag_says(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"saewatch\.yaml"):
        load(tmp_path, f"socket: {value}")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("9" * 5000, "line 2: found a value that is no int"),
        ("0x" + "f" * 5000, "line 2: found an integer of 20000 bits"),
        ("2024-99-99", "line 2: found a value that is no timestamp"),
        ("*x", "line 2: found an alias, which is not taken: write it out"),
        ("a\n---\nb: c", "line 3: found another document"),
        ("[" * 5000, "found more levels than can be read"),
        ("\x00", "found special characters are not allowed"),
    ],
)
def test_what_is_no_yaml_says_what_it_is_and_where(tmp_path: Path, value: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, f"log: {{level: info}}\nlimits: {value}\n")


def test_other_values_are_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "socket: /secret/path\ngrpc: {listen: x, token: hunter2}\n")
    assert "hunter2" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="No such file"):
        config.load(tmp_path / "nowhere.yaml")


def test_a_file_without_end() -> None:
    with pytest.raises(ConfigError, match="larger"):
        config.load(Path("/dev/zero"))


def test_it_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.load(None).socket = "/x"


RULES = "policy: a\nrules:\n  - {id: one, severity: low, when: {feature: x.p1}}\n"


def test_files_are_read_strictly(tmp_path: Path) -> None:
    good, other = tmp_path / "good.yaml", tmp_path / "other.yaml"
    good.write_text(RULES)
    other.write_text(RULES.replace("policy: a", "policy: b"))
    assert [one.name for one in config.read_policies([str(good), str(other)])] == ["a", "b"]
    with pytest.raises(ConfigError, match="two policies called a"):
        config.read_policies([str(good), str(good)])
    with pytest.raises(UnreachableError):
        config.read_policies([str(tmp_path / "absent.yaml")])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (RULES.replace("severity: low", "severity: dire"), "severity"),
        (RULES + "rules: []\n", "twice"),
        ("policy: a\nrules: &all\n  - *all\n", "alias"),
        (RULES.replace("x.p1", "!!python/object:os.system x"), "line 3"),
        ("policy: a\nrules: 7\n", "rules"),
        ("[" * 5000, "YAML"),
        ("\x00", "YAML"),
        ("# " + "x" * 2**20, "larger"),
    ],
)
def test_what_is_no_policy_is_refused_with_its_file(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        config.read_policies([str(path)])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("number", ["1:30", "010", "-0_7", "1:30.5"])
def test_a_number_that_yaml_reads_as_another_is_refused(tmp_path: Path, number: str) -> None:
    with pytest.raises(ConfigError, match=rf"line 2: found the number {number}, which YAML reads as another one"):
        load(tmp_path, f"log: {{level: info}}\nlimits: {{series: {number}}}\n")


def test_zero_and_times_are_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: 0\nb: 0.5\nc: 2026-11-22T18:00:00Z\nd: 0x10\ne: '1:30'\nf: here:50\n")
    found = config.read_yaml(file)
    assert isinstance(found, dict)
    assert (found["a"], found["b"], found["d"], found["e"], found["f"]) == (0, 0.5, 16, "1:30", "here:50")


def test_canaries_and_the_panel_begin_at_the_configuration(tmp_path: Path) -> None:
    found = load(tmp_path, "canaries: {file: c.jsonl, panel: p.jsonl}").canaries
    assert (found.file, found.panel) == (str(tmp_path / "c.jsonl"), str(tmp_path / "p.jsonl"))
    assert load(tmp_path, "canaries: {panel: /p.jsonl}").canaries.panel == "/p.jsonl"


@pytest.mark.parametrize("host", ["exa mple.org", "a..b", ".org", "x" * 64 + ".org", "a." * 127 + "org", "*.org"])
def test_a_host_that_no_resolver_takes_is_refused(tmp_path: Path, host: str) -> None:
    """Else each alert would end in an error of the resolver, which names the host in the log."""
    hook = "webhooks: [{name: a, url: 'https://HOST/x', secret_env: A}]"
    with pytest.raises(ConfigError, match="https://HOST/PATH"):
        load(tmp_path, hook.replace("HOST", host))
    for good in ("hooks.example.org.", "h_x", "10.0.0.1", "[::1]", "xn--bcher-kva.example"):
        assert load(tmp_path, hook.replace("HOST", good)).webhooks
