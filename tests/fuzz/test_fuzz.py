"""10,000 hostile inputs, and every one that once failed: each is read or refused in a sentence, in time and memory."""

import pytest

from fuzz import campaign, harness
from fuzz.campaign import Tally

CASES = 10_000


@pytest.fixture(scope="session")
def tallies() -> dict[str, Tally]:
    """The counts of all formats, from one campaign on two processes."""
    names = harness.names()
    share = CASES / sum(map(harness.weight, names))
    requests = [{"format": name, "source": "corpus"} for name in names]
    requests += [
        {"format": name, "source": "hypothesis", "cases": 1 + int(share * harness.weight(name))}
        for name in sorted(names, key=harness.weight, reverse=True)
    ]
    return campaign.attack(requests)


@pytest.mark.parametrize("name", harness.names())
def test_hostile_files_end_in_a_sentence(name: str, tallies: dict[str, Tally]) -> None:
    tally = tallies[name]
    for found in tally.failures.values():
        print(f"{found.count} x {found.end}; files {[f'{name} {len(c):,} B' for name, c in found.case.items()]}")
    assert not tally.failures, f"{name}: {', '.join(found.end for found in tally.failures.values())}"
    assert tally.cases >= 10 and tally.refused > 0, f"{name} attacks nothing: {tally}"


def test_every_kept_case_is_replayed() -> None:
    """A folder of the corpus is that of a format, and each folder in it holds the files of a case."""
    kept = {folder.name: harness.corpus(folder.name) for folder in harness.CORPUS.iterdir()}
    assert kept and kept.keys() <= set(harness.names()), "a folder of the corpus belongs to no format"
    assert all(cases and all(cases.values()) for cases in kept.values()), "a case of the corpus has no files"
