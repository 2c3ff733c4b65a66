"""saewatch plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from saewatch import cli
from saewatch.cli.plan import between
from tests.engine.standin import BUNDLE, MODEL


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any]:
    code = cli.main(["plan", "--model", str(MODEL), "--dictionary", str(BUNDLE), *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_facts_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = ask(capsys, "--firings-per-token", "5", "--subscribers", "3")
    assert code == cli.GOOD
    facts = found["facts"]
    assert all(isinstance(value, int | float) for value in facts.values())
    assert facts["subscribers_bytes_per_s_low"] == 3 * facts["subscriber_bytes_per_s_low"]
    parts = [value for name, value in facts.items() if name.startswith("device_") and name != "device_bytes"]
    assert sum(parts) == facts["device_bytes"]
    assert found["first"] in {one["name"] for one in found["bounds"]}
    assert found["refused"] == []
    assert found["asked"]["firings_per_token"] == 5.0


def test_device_memory_is_what_vllm_args_prints(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = ask(capsys)
    assert cli.main(["vllm-args", "--dictionary", str(BUNDLE), "--json"]) == cli.GOOD
    assert json.loads(capsys.readouterr().out)["device_bytes"] == found["facts"]["device_bytes"]


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--model", str(MODEL / "config.json"), "--dictionary", str(BUNDLE)]) == cli.GOOD
    text = capsys.readouterr().out
    assert "48 features, 177 rows watched on resid_post.2" in text
    assert "3.73 to 39.7 firings a token, from the stated L0 of 23.7" in text
    assert "estimates from an H200's data sheet, no measurement" in text
    assert "first to be hit: firings per token" in text
    assert "raise their floors" in text
    assert "host memory      at most 64.0 MiB for firings of" in text
    assert cli.main(["plan", "--model", str(MODEL), "--dictionary", str(BUNDLE), "--device", "cpu"]) == cli.GOOD
    assert "not modelled for a CPU" in capsys.readouterr().out


def test_what_the_tap_refuses_is_said_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--model", str(MODEL), "--dictionary", str(BUNDLE), "--max-num-batched-tokens", "1000000"]
    assert cli.main(words) == cli.FAILED
    assert "REFUSED by the tap: device memory" in capsys.readouterr().out
    code, found = ask(capsys, "--max-num-batched-tokens", "1000000")
    assert (code, found["refused"][0][:13]) == (cli.FAILED, "device memory")


@pytest.mark.parametrize(
    "more",
    [
        ["--watch", "0"],
        ["--watch", "1.5"],
        ["--max-num-batched-tokens", "-1"],
        ["--max-num-seqs", "0"],
        ["--tokens-per-s", "0"],
        ["--tokens-per-s", "nan"],
        ["--tokens-per-s", "inf"],
        ["--firings-per-token", "some"],
        ["--firings-per-token", "-1"],
        ["--firings-per-token", "nan"],
        ["--subscribers", "-1"],
        ["--device", "tpu"],
    ],
)
def test_wrong_words_are_a_wrong_usage(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["plan", "--model", str(MODEL), "--dictionary", str(BUNDLE), *more])
    assert caught.value.code == cli.USAGE
    assert f"argument {more[0]}: " in (said := capsys.readouterr().err)
    assert repr(more[1]) in said


def test_what_is_wrong_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "bundle.json").write_text("{}")
    for more, code, said in (
        (["--watch", "99999"], cli.FAILED, f"--watch: found 99999, expected at most 1040, the rows of {BUNDLE}"),
        (["--dictionary", str(BUNDLE)], cli.FAILED, f"--dictionary {BUNDLE}: found the same dictionary"),
        (["--dictionary", str(broken)], cli.FAILED, f"{broken}/bundle.json: schema: found nothing"),
        (["--dictionary", str(tmp_path)], cli.UNREACHED, f"{tmp_path}/bundle.json: found No such file or directory"),
    ):
        assert cli.main(["plan", "--model", str(MODEL), "--dictionary", str(BUNDLE), *more]) == code
        assert said in capsys.readouterr().err


def test_a_model_that_is_not_there_or_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--dictionary", str(BUNDLE), "--model"]
    assert cli.main([*words, "owner/model"]) == cli.UNREACHED
    assert "not fetched" in capsys.readouterr().err
    file = tmp_path / "config.json"
    file.write_text('{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 4}')
    assert cli.main([*words, str(tmp_path)]) == cli.FAILED
    assert f"{BUNDLE}: dictionary.encoder.d_in: found 128, expected 64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ends", "said"),
    [((2.571, 55.1), "2.57 to 55.1"), ((5.0, 5.0), "5"), ((0.0, 1234.5), "0 to 1,234"), ((99.999, 100), "100")],
)
def test_numbers_are_short(ends: tuple[float, float], said: str) -> None:
    assert between(ends) == said
