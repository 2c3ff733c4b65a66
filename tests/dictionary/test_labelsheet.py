"""A CSV of labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from saewatch.core import limits
from saewatch.core.errors import ManifestError, UnreachableError
from saewatch.core.label import Source
from saewatch.dictionary.labelsheet import read_label_sheet


def sheet(folder: Path, text: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_column(tmp_path: Path) -> None:
    text = 'feature,latent,label,category,severity,concept,floor\r\nthreat.l1,,"Threats, made",vcr,high,,\r\n'
    found = read_label_sheet(sheet(tmp_path, f"\ufeff{text},12,Cities,x.place,,place,0.5\n\n"))
    first, second = found.proposals
    assert (first.where, first.feature, first.latent, first.label) == (
        "labels.csv:2",
        "threat.l1",
        None,
        "Threats, made",
    )
    assert (first.category, first.severity, first.source) == ("vcr", "high", Source(kind="csv"))
    assert (second.latent, second.concept, second.category, second.floor) == (12, "place", "x.place", 0.5)
    assert found.digest.startswith("sha256:")


WRONG = {
    "no label column": ("feature\na.l1\n", "labels.csv:1: found feature, expected label, and feature or latent"),
    "nothing that says which": ("label\nx\n", "expected label, and feature or latent"),
    "a misspelt column": ("feature,tag\na.l1,x\n", "found the column 'tag'"),
    "a column twice": ("feature,label,label\na.l1,x,y\n", "a column twice"),
    "a cell too many": ("feature,label\na.l1,x,y\n", "labels.csv:2: found 3 cells, expected 2"),
    "no feature": ("feature,latent,label\n,,x\n", "labels.csv:2: found no feature"),
    "an empty label": ("feature,label\na.l1,  \n", "labels.csv:2: label: found nothing"),
    "a label that commands the terminal": ("feature,label\na.l1,\x1b[2J\n", "without control characters"),
    "a label of two lines": ('feature,label\na.l1,"x\ny"\n', "expected one line"),
    "a long label": (f"feature,label\na.l1,{'x' * 513}\n", "513 bytes"),
    "a latent in words": ("latent,label\nthree,x\n", "latent: found 'three'"),
    "a negative latent": ("latent,label\n-3,x\n", "latent: found '-3'"),
    "a latent of many digits": (f"latent,label\n{'9' * 400},x\n", "latent: found"),
    "a severity of no meaning": ("feature,label,severity\na.l1,x,huge\n", "severity: found 'huge'"),
    "a category of no meaning": ("feature,label,category\na.l1,x,evil\n", "labels.csv:2.category: found 'evil'"),
    "a floor that is none": ("latent,label,floor\n3,x,nan\n", "floor: found 'nan'"),
    "an open quote": ('feature,label\na.l1,"x\n', "expected CSV as RFC 4180 has it"),
    "a cell of no end": ("feature,label\na.l1," + "x" * 200_000 + "\n", "expected CSV as RFC 4180 has it"),
    "a zero byte": ("feature,label\na.l1,x\x00y\n", "labels.csv:2"),
    "only a head": ("feature,label\n", "found no labels"),
    "nothing": ("", "found no labels"),
    "another encoding": ("feature,label\na.l1,é\n".encode("latin-1"), "expected CSV in UTF-8"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(text: str | bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read_label_sheet(sheet(tmp_path, text))
    assert said in str(caught.value)


def test_a_large_file_and_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LABEL_FILE_BYTES", 20)
    with pytest.raises(ManifestError, match="a larger file"):
        read_label_sheet(sheet(tmp_path, "feature,label\na.l1,x\n"))
    monkeypatch.undo()
    monkeypatch.setattr(limits, "FEATURES", 1)
    with pytest.raises(ManifestError, match="more lines"):
        read_label_sheet(sheet(tmp_path, "feature,label\na.l1,x\na.l2,y\n"))
    with pytest.raises(UnreachableError, match="a CSV of labels"):
        read_label_sheet(tmp_path / "none.csv")
