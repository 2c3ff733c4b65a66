"""The tree of errors is the one that is drawn, and each says what was found, what was expected and what to do."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from typing import Any

import pytest

from saewatch.core import errors
from saewatch.core.errors import SaewatchError

CLASSES = {name: cls for name, cls in vars(errors).items() if inspect.isclass(cls) and issubclass(cls, SaewatchError)}


def drawn() -> dict[str, tuple[str, str]]:
    """Class: its parent and its sentence, as the module's docstring draws them."""
    found: dict[str, tuple[str, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r" {4}((?:│   |    )*)(?:├── |└── )?([A-Z]\w+)(?: +(.+))?", line)
        if match:
            branch = match[2] != "SaewatchError"
            depth = len(match[1]) // 4 + 1 if branch else 0
            path[depth:] = [match[2]]
            found[match[2]] = (path[depth - 1] if branch else "Exception", match[3] or "")
    return found


def test_the_drawn_tree_is_the_tree() -> None:
    assert {name: cls.__base__.__name__ for name, cls in CLASSES.items() if cls.__base__} == {
        name: parent for name, (parent, _) in drawn().items()
    }
    assert len(CLASSES) > 15


def test_every_class_says_what_it_is_for() -> None:
    for name, (_, sentence) in drawn().items():
        assert CLASSES[name].__doc__
        assert sentence or name == "SaewatchError"


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_an_error_says_what_was_found_expected_and_to_be_done(cls: type[SaewatchError]) -> None:
    error = cls("dictionary.d_in", found=4096, expected=2304)
    assert str(error) == "dictionary.d_in: found 4096, expected 2304"
    error = cls("dictionary.d_in", found=4096, expected=2304, hint="Is it made for this model?")
    assert str(error) == "dictionary.d_in: found 4096, expected 2304. Is it made for this model?"
    assert (error.subject, error.found, error.expected, error.hint) == error.args


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_an_error_survives_the_way_between_processes(cls: type[SaewatchError]) -> None:
    error = cls("a", found=b"x", expected=[1], hint="h")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert again.args == error.args
        assert str(again) == str(error)


def test_a_class_is_a_word_for_labels() -> None:
    assert errors.TensorFileError("x", found=1, expected=2).code == "tensor_file_error"


def test_what_was_examined_is_never_left_out() -> None:
    incomplete: list[dict[str, Any]] = [{}, {"found": 1}, {"expected": 2}]
    for given in incomplete:
        with pytest.raises(TypeError):
            SaewatchError("a", **given)


@pytest.mark.parametrize("hint", ["", "Is it made for this model? See below."])
def test_what_an_error_said_elsewhere_is_found_in_its_text(hint: str) -> None:
    said = SaewatchError("dictionary.d_in", found=4096, expected="2304, or less", hint=hint)
    expected = {"subject": "dictionary.d_in", "found": "4096", "expected": "2304, or less", "hint": hint}
    assert errors.parts(str(said)) == expected
    assert errors.parts("off: not carried out yet") is None
