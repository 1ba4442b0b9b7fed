"""The harness notices whatever a reader may not do, and survives it."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import campaign, harness
from fuzz.broken import FILE

NAME = "fuzz.broken"


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[campaign.Replay]:
    opened = campaign.Replay(NAME, tmp_path_factory.mktemp("replay"))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        ("read", ""),
        ("refuse", ""),
        ("temporary", ""),
        ("two lines", "says more than one printable line"),
        ("long", "says N characters"),
        ("repr", "says what only a programmer reads"),
        ("raise", "raises KeyError in broken.py:read"),
        ("exit", "raises SystemExit in broken.py:read"),
        ("sleep", "takes N s and is then read"),
        ("memory", "takes N MiB for N MiB and is then read"),
        ("write", "does what a reader may not"),
        ("start", "does what a reader may not"),
        ("connect", "does what a reader may not"),
        ("crash", "ends the process by SIGABRT"),
        ("read", ""),
    ],
)
def test_what_a_reader_may_not_do_is_a_failure(replay: campaign.Replay, act: str, kind: str) -> None:
    assert replay.kind({FILE: act.encode()}) == kind


def test_a_campaign_counts_and_goes_on() -> None:
    requests = [{"format": NAME, "source": source, "cases": 40, "first": 0} for source in ("seeds", "hypothesis")]
    tally = campaign.attack(requests, workers=1)[NAME]
    kinds = sorted(tally.failures)
    assert tally.cases >= 50 and tally.read > 5 and tally.refused > 5
    assert kinds == ["raises KeyError in broken.py:read", "raises SystemExit in broken.py:read"]
    assert tally.cases == tally.read + tally.refused + sum(found.count for found in tally.failures.values())
    assert all(found.case[FILE] in (b"raise", b"exit") for found in tally.failures.values()), "another input is blamed"


def test_a_failing_input_is_made_smaller_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(__file__).resolve().parents[2] / "scripts" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz_script", place)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(harness, "CORPUS", tmp_path)
    case = {FILE: b"a long text with a bad word in it", "other": b"x"}
    found = campaign.Found("raises KeyError in broken.py:read: 'x'", case)
    saved = script.save(NAME, found)
    assert harness.read_case(saved) == {FILE: b"bad"}, "more is kept than fails"
    assert harness.corpus(NAME) == {saved.name: {FILE: b"bad"}}, "the corpus does not hold what was saved"
