"""The file of canaries: what is read, and what is refused and where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError, UnreachableError
from saewatch.edge import canaries
from saewatch.edge.canaries import configured, load, load_panel
from saewatch.monitor.canary import Canary
from saewatch.monitor.drift.panel import PROMPTS_MIN
from tests import fakes

GOOD = {"id": "a", "feature": "threat.p1", "fires": True, "prompt": "I know where you live"}


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "canaries.jsonl"
    path.write_text("".join(one + "\n" if isinstance(one, str) else json.dumps(one) + "\n" for one in lines))
    return path


def test_a_file_is_read_in_its_order(tmp_path: Path) -> None:
    second = {**GOOD, "id": "b", "fires": False, "above": 1}
    third = {**GOOD, "id": "c", "value": 4.5, "tolerance": 0.1, "tokens": 7}
    found = load(written(tmp_path, "# made by hand", GOOD, "", second, third))
    prompt = GOOD["prompt"]
    assert isinstance(prompt, str)
    assert found == (
        Canary(id="a", feature="threat.p1", fires=True, prompt=prompt),
        Canary(id="b", feature="threat.p1", fires=False, prompt=prompt, above=1.0),
        Canary(id="c", feature="threat.p1", fires=True, prompt=prompt, value=4.5, tolerance=0.1, tokens=7),
    )


def test_a_canary_of_a_feature_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    file = str(written(tmp_path, {**GOOD, "feature": "threat.p1"}, {**GOOD, "id": "b", "feature": "threat.x1"}))
    said = r"canary 'b': feature: found threat.x1, expected a feature of a dictionary: threat.*or one of \d others"
    with pytest.raises(ConfigError, match=said):
        configured(file, [fakes.dictionary()])
    other = fakes.dictionary([replace(fakes.FEATURES[0], id="threat.x1")], seed=1)
    assert len(configured(file, [fakes.dictionary(), other])) == 2, "each is in one of them"
    assert len(configured(file, [])) == 2, "nothing is known that it could be compared with"
    assert configured("", []) == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: found no JSON"),
        ('{"id": "b", "feature": "f", "fires": true, "fires": false, "prompt": "p"}', "line 2: found no JSON"),
        ("[1]", "line 2: found list, expected a JSON object"),
        ("[" * 5000, "line 2: found no JSON"),
        ({**GOOD, "id": "b", "limit": 1}, "line 2: limit: found an unknown key"),
        ({**GOOD, "id": "b", "fires": 1}, "line 2: fires: found 1"),
        ({**GOOD, "id": "b", "prompt": ""}, "line 2: prompt: found ''"),
        ({**GOOD, "id": "b", "prompt": "\ud800"}, "line 2: prompt: found"),
        ({**GOOD, "id": 7}, "line 2: id: found 7"),
        ({**GOOD, "id": "b", "above": -1}, "line 2: above: found -1"),
        ('{"id": "b", "feature": "f", "fires": true, "prompt": "p", "above": NaN}', "line 2: above: found nan"),
        ('{"id": "b", "feature": "f", "fires": true, "prompt": "p", "value": 1e99}', "line 2: value: found 1e+99"),
        ({**GOOD, "id": "b", "above": True}, "line 2: above: found True"),
        ({**GOOD, "id": "b", "fires": False, "value": 2}, "line 2: value: found a value"),
        ({**GOOD, "id": "b", "tokens": 0}, "line 2: tokens: found 0"),
        (GOOD, "line 2: id: found 'a' twice"),
        ({**GOOD, "id": "b", "prompt": "p" * limits.CANARY_BYTES}, "line 2: found a longer line"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number(line: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, GOOD, line))
    assert said in str(caught.value)


def test_a_file_of_nothing_or_of_too_many_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="found no canaries"):
        load(written(tmp_path, "# nothing"))
    with pytest.raises(UnreachableError):
        load(tmp_path / "none")
    monkeypatch.setattr(limits, "CANARIES", 1)
    with pytest.raises(ConfigError, match="at most 1 canaries"):
        load(written(tmp_path, GOOD, {**GOOD, "id": "b"}))


# --- a panel ----------------------------------------------------------------------------------------------------------
def panel(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return path


def test_a_panel_is_its_prompts_in_order(tmp_path: Path) -> None:
    texts = [f"prompt {number}" for number in range(PROMPTS_MIN)]
    assert load_panel(panel(tmp_path / "p", *({"prompt": one} for one in texts))) == tuple(texts)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"prompt": "prompt 3"}, "line 17: prompt: .*twice"),
        ({"prompt": ""}, "line 17: prompt"),
        ({"prompt": "a", "fires": True}, "line 17: fires.*unknown key"),
        (["a"], "line 17.*JSON object"),
        ({"text": "a"}, "line 17: text"),
    ],
)
def test_a_wrong_line_of_a_panel_is_refused(line: object, said: str, tmp_path: Path) -> None:
    lines = [{"prompt": f"prompt {number}"} for number in range(PROMPTS_MIN)]
    with pytest.raises(ConfigError, match=said):
        load_panel(panel(tmp_path / "p", *lines, line))


def test_a_panel_of_too_few_or_too_many_prompts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"prompt": f"prompt {number}"} for number in range(PROMPTS_MIN)]
    with pytest.raises(ConfigError, match="15 prompts"):
        load_panel(panel(tmp_path / "p", *lines[1:]))
    monkeypatch.setattr(canaries, "PROMPTS_MAX", 3)
    with pytest.raises(ConfigError, match=r"line 4.*at most 3"):
        load_panel(panel(tmp_path / "p", *lines))
