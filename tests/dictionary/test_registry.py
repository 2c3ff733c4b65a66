"""Refs: moved by one at a time, as their journal says, through any crash."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saewatch.core.errors import ConfigError, ManifestError, MisfitError, SaewatchError
from saewatch.dictionary.gate import Verdict
from saewatch.dictionary.journal import NOTHING, GateRecord
from saewatch.dictionary.registry import Registry, Slot, read_slot
from saewatch.dictionary.store import TENSORS
from saewatch.dictionary.verify import verify
from tests.dictionary.crashing import SLOT, Crash, CrashingDisk, bundle, move, registry


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Registry, list[str]]:
    """A store with three bundles."""
    found = registry(tmp_path / "store")
    return found, [found.store.add(bundle(tmp_path / f"bundle{seed}", seed=seed)).digest for seed in range(3)]


def test_refs_move_and_go_back(stored: tuple[Registry, list[str]]) -> None:
    one, (a, b, c) = stored
    first = one.promote(move(), a, expect=NOTHING)
    assert (first.seq, first.previous, first.before, first.after, first.act) == (1, "", "", a, "promote")
    second = one.promote(move(), b, expect=a)
    assert second.previous == first.digest
    one.promote(move("candidate"), c, expect=NOTHING)
    one.promote(move(), c, expect=b)
    assert one.current(SLOT) == {"candidate": c, "stable": c}
    assert one.rollback(move()).after == b
    back = one.rollback(move())  # further back, not forth to c
    assert (back.after, back.act, back.before) == (a, "rollback", b)
    with pytest.raises(ConfigError, match="found no earlier bundle"):
        one.rollback(move())
    assert one.rollback(move(), c, expect=a).after == c
    assert one.current(SLOT)["stable"] == c
    assert one.references() == {c: ["demo/resid_post.1@candidate", "demo/resid_post.1@stable"]}
    assert [line.act for line in one.journal(SLOT).lines].count("rollback") == 3
    assert verify(one).good


def test_the_slower_of_two_is_told_who_was_faster(stored: tuple[Registry, list[str]]) -> None:
    one, (a, b, c) = stored
    one.promote(move(), a, expect=NOTHING)
    one.promote(replace(move(), actor="grace"), b, expect=a)
    refused = r"found sha256:.*, promoted by grace at 2023-11-14T22:13:20Z \(line 2\), expected sha256:.*Somebody was"
    with pytest.raises(ConfigError, match=refused):
        one.promote(move(), c, expect=a)
    with pytest.raises(ConfigError, match="promoted by grace"):
        one.promote(move(), c, expect=NOTHING)
    with pytest.raises(ConfigError, match="promoted by grace"):
        one.rollback(move(), expect=a)
    with pytest.raises(ConfigError, match=r"shadow: found nothing, expected sha256"):
        one.promote(move("shadow"), c, expect=a)
    with pytest.raises(ConfigError, match="expected another bundle than the current"):
        one.promote(move(), b, expect=b)
    one.rollback(move())
    with pytest.raises(ConfigError, match="rolled back by ada"):
        one.promote(move(), c, expect=b)
    assert len(one.journal(SLOT).lines) == 3


def compete(root: Path, actor: str, *, bundle: str, expect: str, begin: Any, answers: Any) -> None:
    """One of two operators, in a process of its own."""
    found = registry(root)
    begin.wait()
    try:
        found.promote(replace(move(), actor=actor), bundle, expect=expect)
        answers.put((actor, "won"))
    except SaewatchError as error:
        answers.put((actor, str(error)))


def test_two_promoters_in_two_processes(stored: tuple[Registry, list[str]]) -> None:
    """Twenty times: exactly one wins, the other is told who it was, and the journal says so too."""
    one, digests = stored
    context = multiprocessing.get_context("fork")
    current = NOTHING
    for turn in range(20):
        others = [digest for digest in digests if digest != current][:2]
        begin, answers = context.Barrier(2), context.SimpleQueue()
        workers = [
            context.Process(
                target=compete,
                args=(one.store.root, actor),
                kwargs={"bundle": bundle, "expect": current, "begin": begin, "answers": answers},
            )
            for actor, bundle in zip(("ada", "grace"), others, strict=True)
        ]
        for worker in workers:
            worker.start()
        said = dict(answers.get() for _ in workers)
        for worker in workers:
            worker.join()
        (winner,) = (actor for actor, text in said.items() if text == "won")
        (loser,) = (text for text in said.values() if text != "won")
        assert f"promoted by {winner}" in loser
        line = one.journal(SLOT).lines[-1]
        assert (line.seq, line.actor, line.before) == (turn + 1, winner, current)
        current = line.after
    assert verify(one).good


# --- crashes ----------------------------------------------------------------------------------------------------------
def crashed(root: Path, act: Callable[[Registry], object], before: str, after: str) -> int:
    """Does ``act`` with a crash at each step; each time old or new is in force, and nothing is damaged. Gives steps."""
    seen = set()
    for at in range(1000):
        again = root.parent / f"{root.name}{at}"
        shutil.copytree(root, again)
        disk = CrashingDisk(at)
        try:
            act(registry(again, disk))
        except Crash:
            found = registry(again)
            with found.writing():  # opened: what lags is brought up
                pass
            assert verify(found).damage == (), at
            assert verify(found).recovered == ()
            current = found.current(SLOT).get("stable", NOTHING)
            assert current in {before, after}
            words = found.ref_path(SLOT, "stable")
            assert (words.read_text().split()[0] if words.exists() else NOTHING) == current
            seen.add(current)
            if current == before:
                act(found)
            assert registry(again).current(SLOT)["stable"] == after
            shutil.rmtree(again)
        else:
            shutil.rmtree(again)
            assert seen == {before, after}
            return at
    raise AssertionError


def test_a_crash_at_any_step_of_a_promotion(stored: tuple[Registry, list[str]]) -> None:
    one, (a, b, _) = stored
    assert crashed(one.store.root, lambda found: found.promote(move(), a, expect=NOTHING), NOTHING, a) >= 9
    one.promote(move(), a, expect=NOTHING)
    assert crashed(one.store.root, lambda found: found.promote(move(), b, expect=a), a, b) >= 9


def test_a_crash_at_any_step_of_a_rollback(stored: tuple[Registry, list[str]]) -> None:
    one, (a, b, _) = stored
    one.promote(move(), a, expect=NOTHING)
    one.promote(move(), b, expect=a)
    assert crashed(one.store.root, lambda found: found.rollback(move()), b, a) >= 9


def test_a_crash_while_a_crash_is_recovered(stored: tuple[Registry, list[str]]) -> None:
    one, (a, b, _) = stored
    one.promote(move(), a, expect=NOTHING)
    journal = one.store.root / "journal" / "demo" / "resid_post.1.jsonl"
    one.promote(move(), b, expect=a)
    one.ref_path(SLOT, "stable").unlink()  # behind its journal
    with journal.open("ab") as file:
        file.write(b'{"half":')
    for at in range(100):
        try:
            with registry(one.store.root, CrashingDisk(at)).writing():
                break
        except Crash:
            continue
    assert 3 < at < 99
    assert verify(one).damage == ()
    assert one.current(SLOT) == {"stable": b}


def test_an_unfinished_line_is_cut_off_and_told(stored: tuple[Registry, list[str]]) -> None:
    one, (a, b, _) = stored
    one.promote(move(), a, expect=NOTHING)
    journal = one.store.root / "journal" / "demo" / "resid_post.1.jsonl"
    whole = journal.read_bytes()
    one.promote(move(), b, expect=a)
    journal.write_bytes(journal.read_bytes()[:-20])
    one.ref_path(SLOT, "stable").write_bytes(b"")
    journal_now = one.journal(SLOT)
    assert (len(journal_now.lines), journal_now.unfinished > 100) == (1, True)
    assert one.current(SLOT) == {"stable": a}  # also before it is cut
    with one.writing() as recovered:
        assert recovered == [
            f"journal of {SLOT}: a line of {journal_now.unfinished} bytes was never finished, and was cut off"
        ]
    assert journal.read_bytes() == whole
    assert one.promote(move(), b, expect=a).seq == 2


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text", ["demo", "demo/", "/resid_post.1", "../x/resid_post.1", "demo/../resid_post.1", "demo/blocks.1.hook_z"]
)
def test_slots_have_an_alias_and_a_hook_point(text: str) -> None:
    assert read_slot("demo/resid_post.1") == SLOT
    with pytest.raises(ConfigError, match="expected a model's alias and a hook point"):
        read_slot(text)


def test_what_may_not_be_promoted(stored: tuple[Registry, list[str]], tmp_path: Path) -> None:
    one, (a, b, _) = stored
    with pytest.raises(ManifestError, match="expected one of the store"):
        one.promote(move(), "sha256:" + "0" * 64, expect=NOTHING)
    with pytest.raises(MisfitError, match=r"hook point: found resid_post.1, expected resid_post.2"):
        one.promote(replace(move(), slot=Slot("demo", "resid_post.2")), a, expect=NOTHING)
    one.promote(move(), a, expect=NOTHING)
    one.promote(move(), b, expect=a)
    one.store.path(TENSORS, one.store.contents(a).manifest.tensors["W"].sha256).unlink()
    with pytest.raises(ManifestError, match="found 1 of its tensors are not there, expected all of them"):
        one.rollback(move())
    with pytest.raises(ConfigError, match="expected an earlier bundle of its journal"):
        one.rollback(move(), stored[1][2])
    one.store.add(tmp_path / "bundle0")
    with pytest.raises(ConfigError, match="--reason: found nothing, expected why it is rolled back"):
        one.rollback(replace(move(), reason=""))


def test_the_gate(tmp_path: Path) -> None:
    one = registry(tmp_path / "store")
    passed, failed, unknown = (
        one.store.add(bundle(tmp_path / name, seed=seed, gate=gate)).digest
        for seed, (name, gate) in enumerate((("passed", "passed"), ("failed", "failed"), ("unknown", None)))
    )
    silent = replace(move(), reason="")
    with pytest.raises(ConfigError, match=r"gate: found failed \(fvu\), expected passed. To promote it all the same"):
        one.promote(move(), failed, expect=NOTHING)
    with pytest.raises(ConfigError, match="found failed"):
        one.promote(replace(silent, override=True), failed, expect=NOTHING)
    with pytest.raises(ConfigError, match=r"found no verdict, expected passed. Nobody evaluated it: say --reason"):
        one.promote(silent, unknown, expect=NOTHING)
    assert one.promote(replace(silent, ref="shadow"), failed, expect=NOTHING).gate == GateRecord(verdict="not_asked")
    line = one.promote(silent, passed, expect=NOTHING)
    assert line.gate == GateRecord(verdict="passed", attestation=one.store.contents(passed).attestations[0].digest)
    line = one.promote(move(), unknown, expect=passed)
    assert (line.gate.verdict, line.reason) == ("none", "because")
    line = one.promote(replace(move(), override=True), failed, expect=unknown)
    assert (line.gate.verdict, line.gate.overridden) == ("failed", True)
    assert one.journal(SLOT).lines[-1] == line
    one.rollback(replace(move(), override=True))
    regressed = Verdict(verdict="failed", failed=("auroc of fraud.p1",))
    with pytest.raises(ConfigError, match=r"found failed \(auroc of fraud.p1\)"):
        one.rollback(move(), passed, gate=lambda _: regressed)


def test_pins(stored: tuple[Registry, list[str]]) -> None:
    one, (a, _, _) = stored
    one.pin(a)
    one.pin(a)
    assert (one.pins(), one.references()) == ([a], {a: ["pinned"]})
    assert verify(one).good
    one.unpin(a)
    one.unpin(a)
    assert one.pins() == []


def test_a_store_may_have_slots_of_several_models(tmp_path: Path) -> None:
    one = registry(tmp_path / "store")
    a = one.store.add(bundle(tmp_path / "a")).digest
    for slot in (Slot("m-1", "resid_post.1"), Slot("m-2", "resid_post.1")):
        one.promote(replace(move(), slot=slot), a, expect=NOTHING)
    assert [str(slot) for slot in one.slots()] == ["m-1/resid_post.1", "m-2/resid_post.1"]
    assert one.references() == {a: ["m-1/resid_post.1@stable", "m-2/resid_post.1@stable"]}


def test_what_could_not_be_read_back_is_not_written(stored: tuple[Registry, list[str]]) -> None:
    """A journal with such a line would be refused for ever."""
    one, (a, _, _) = stored
    for wrong in ({"reason": "x" * 4097}, {"actor": ""}, {"actor": "\ud800"}, {"reason": "e\u0301"}):
        with pytest.raises(ManifestError):
            one.promote(replace(move(), **wrong), a, expect=NOTHING)  # type: ignore[arg-type]  # mixed values
    with pytest.raises(ManifestError):
        one.promote(replace(move(), time_ms=2**53), a, expect=NOTHING)
    assert one.journal(SLOT).lines == ()
    one.promote(move(reason="two\nlines"), a, expect=NOTHING)
    assert one.journal(SLOT).lines[0].reason == "two\nlines"
    assert verify(one).good
