"""saewatch vllm-args."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch import cli
from saewatch.core import tapconfig
from saewatch.core.catalogue import Feature
from tests import fakes


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    return str(fakes.write_bundle(tmp_path / "it's a bundle", fakes.dictionary()))


def after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def watched(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    config = json.loads(after(json.loads(capsys.readouterr().out)["arguments"], "--additional-config"))
    return [use["watch"] for use in config["saewatch"]["dictionaries"]]


def another(folder: Path, features: Sequence[Feature]) -> str:
    """A bundle of another dictionary."""
    return str(fakes.write_bundle(folder, fakes.dictionary(features, seed=1)))


def test_the_tap_reads_what_is_printed(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "vllm-args",
        "--dictionary",
        bundle,
        "--watch",
        "threat.p1",
        "--socket",
        "/run/s.sock",
        "--on-failure",
        "serve",
    ]
    assert cli.main([*words, "--json"]) == cli.GOOD
    found = json.loads(capsys.readouterr().out)
    words = found["arguments"]
    assert after(words, "--worker-cls") == "saewatch.engine.vllm.TapWorker"
    assert after(words, "--middleware") == "saewatch.engine.middleware.LabelMiddleware"
    config = tapconfig.read(json.loads(after(words, "--additional-config"))["saewatch"])
    assert (config.socket, config.on_failure) == ("/run/s.sock", "serve")
    assert [(use.path, use.watch) for use in config.dictionaries] == [(bundle, ("threat.p1",))]
    assert found["environment"] == {"SAEWATCH_SOCKET": "/run/s.sock"}
    assert found["host_bytes"] == config.reuse_bytes


def test_a_shell_reads_what_is_printed(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vllm-args", "--dictionary", bundle, "--socket", "/run/s.sock"]) == cli.GOOD
    memory, host, export, command = capsys.readouterr().out.splitlines()
    assert memory.startswith("# device memory at 8192 rows a step, it's a bundle: ")
    assert "MiB (staging " in memory
    assert host == "# host memory: at most 64.0 MiB for firings of prompts that come again (reuse_bytes)"
    assert export == "export SAEWATCH_SOCKET=/run/s.sock"
    words = shlex.split(command)
    assert words[:3] == ["vllm", "serve", "MODEL"]
    assert json.loads(words[words.index("--additional-config") + 1])["saewatch"]["dictionaries"][0]["path"] == bundle


def test_without_the_middleware(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vllm-args", "--dictionary", bundle, "--no-middleware", "--json"]) == cli.GOOD
    found = json.loads(capsys.readouterr().out)
    assert "--middleware" not in found["arguments"]
    assert found["environment"] == {}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--watch", "thread.p1"], "thread.p1"),
        (["--census", "2"], "census"),
        (["--rows", "0"], "rows"),
        (["--placement", "graph", "--census", "0.1"], "graph with a census"),
        (["--screen", "int8"], "int8 with neither TopK nor a census"),
        (["--rows", "100000000"], "device_budget_mib"),
        (["--socket", "/" + "x" * 200], "socket"),
        (["--socket", "relative.sock"], "socket"),
        (["--mode", "thresholded"], "mode"),
        (["--dictionary", "/nowhere"], "bundle.json"),
    ],
)
def test_what_the_tap_would_refuse(bundle: str, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vllm-args", "--dictionary", bundle, *more]) == cli.FAILED
    assert said in capsys.readouterr().err


def test_the_same_dictionary_twice(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = str(fakes.write_bundle(tmp_path / "copy", fakes.dictionary()))
    assert cli.main(["vllm-args", "--dictionary", bundle, "--dictionary", copy]) == cli.FAILED
    assert "the same dictionary" in capsys.readouterr().err


def test_a_shadow_runs_beside_the_stable_one(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside = another(tmp_path / "beside", fakes.FEATURES)
    assert cli.main(["vllm-args", "--dictionary", bundle, "--shadow", beside, "--json"]) == cli.GOOD
    config = json.loads(after(json.loads(capsys.readouterr().out)["arguments"], "--additional-config"))
    uses = config["saewatch"]["dictionaries"]
    assert [(use["path"], use["role"]) for use in uses] == [(bundle, "stable"), (beside, "shadow")]
    assert cli.main(["vllm-args", "--dictionary", bundle, "--shadow", bundle]) == cli.FAILED
    assert "the same dictionary" in capsys.readouterr().err


def test_each_dictionary_watches_those_of_the_ids_that_it_has(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feature = replace(fakes.FEATURES[0], id="other.g1")
    other = another(tmp_path / "other", [feature, *fakes.FEATURES[1:]])
    words = ["vllm-args", "--dictionary", bundle, "--dictionary", other, "--json"]
    first, second = fakes.FEATURES[0].id, fakes.FEATURES[1].id
    assert cli.main([*words, "--watch", first, "--watch", "other.g1", "--watch", second]) == cli.GOOD
    assert watched(capsys) == [[first, second], ["other.g1", second]]
    assert cli.main([*words, "--watch", first, "--watch", "nobody.p1"]) == cli.FAILED
    assert "nobody.p1" in capsys.readouterr().out


def test_a_dictionary_with_none_of_the_ids_is_not_watched_whole(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = another(tmp_path / "other", [replace(fakes.FEATURES[0], id="other.g1")])
    words = ["vllm-args", "--dictionary", bundle, "--dictionary", other]
    assert cli.main([*words, "--watch", "other.g1"]) == cli.FAILED
    assert f"no feature of {bundle}" in capsys.readouterr().err


def test_a_mode_that_the_dictionary_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = fakes.dictionary()
    sheet = replace(known.manifest.encoder, activation="topk", k=4, modes=("exact", "thresholded"))
    spare = replace(known.manifest.tensors["lim"], sha256="sha256:" + "0" * 64)
    manifest = replace(known.manifest, encoder=sheet, tensors={**known.manifest.tensors, "lim_thresholded": spare})
    catalogue = replace(known.catalogue, weights=manifest.digest)
    known = replace(known, manifest=manifest, catalogue=catalogue, weights_digest=manifest.digest)
    bundle = str(fakes.write_bundle(tmp_path / "other", known))
    assert cli.main(["vllm-args", "--dictionary", bundle, "--mode", "thresholded"]) == cli.GOOD
    assert '"mode":"thresholded"' in capsys.readouterr().out


def test_the_help_says_what_no_middleware_costs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["vllm-args", "--help"])
    assert "costs the client's own request id, tenant" in " ".join(capsys.readouterr().out.split())


def test_a_dictionary_is_needed() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["vllm-args"])
    assert caught.value.code == cli.USAGE


def test_canaries_get_priorities_and_trusted_headers(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["vllm-args", "--dictionary", bundle, "--canaries", "--json"]) == cli.GOOD
    found = json.loads(capsys.readouterr().out)
    assert after(found["arguments"], "--scheduling-policy") == "priority"
    assert found["environment"]["SAEWATCH_TRUST_HEADERS"] == "1"
    assert cli.main(["vllm-args", "--dictionary", bundle, "--canaries"]) == cli.GOOD
    assert "# headers are trusted" in capsys.readouterr().out
    assert cli.main(["vllm-args", "--dictionary", bundle, "--canaries", "--no-middleware"]) == cli.FAILED
    assert cli.main(["vllm-args", "--dictionary", bundle, "--json"]) == cli.GOOD
    assert "--scheduling-policy" not in json.loads(capsys.readouterr().out.splitlines()[-1])["arguments"]
