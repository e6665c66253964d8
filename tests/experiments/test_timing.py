"""Rounds in which the machine was slow are left out, whatever the programs took, and never without end."""

import itertools
import math

import pytest

from experiments.benchmarks import timing


class Scripted(timing.Probe):
    """A probe that takes given times."""

    def __init__(self, *seconds):
        self.seconds = itertools.chain(*seconds)
        self.fastest = math.inf
        self.patience = 10

    def __call__(self):
        taken = next(self.seconds)
        self.fastest = min(self.fastest, taken)
        return taken


STEADY = [1.0] * 4  # a round: before it, before and after both of its runs


@pytest.fixture
def programs(monkeypatch):
    """Two programs that record being run, and the pauses."""
    calls, pauses = [], []
    monkeypatch.setattr(timing.time, "sleep", pauses.append)
    return calls, pauses, [lambda: calls.append("a"), lambda: calls.append("b")]


def test_programs_run_in_turns_after_a_first_run_each(programs):
    calls, _, both = programs
    rounds, repeated = timing.in_turns(both, 3, Scripted(STEADY * 3))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert len(rounds) == 3
    assert repeated == 0


def test_a_round_in_which_the_machine_became_slow_is_repeated(programs):
    calls, _, both = programs
    rounds, repeated = timing.in_turns(both, 3, Scripted(STEADY, [1.0, 1.0, 1.0, 1.2], [1.0, 1.1, 1.0, 1.0], STEADY))
    assert [r.slowness for r in rounds] == [1.0, 1.0, 1.1]
    assert repeated == 1
    assert len(calls) == 2 + 4 * 2


def test_a_round_counted_before_the_machine_was_seen_fast_is_repeated(programs):
    _, _, both = programs
    rounds, repeated = timing.in_turns(both, 2, Scripted([2.0] * 4, STEADY, STEADY))
    assert [r.slowness for r in rounds] == [1.0, 1.0]
    assert repeated == 1


def test_a_round_waits_for_a_slow_machine(programs):
    _, pauses, both = programs
    rounds, repeated = timing.in_turns(both, 2, Scripted(STEADY, [1.5] * 7, STEADY))
    assert [r.slowness for r in rounds] == [1.0, 1.0]
    assert repeated == 0
    assert pauses.count(1) == 7


def test_a_machine_that_stays_slow_is_measured_all_the_same(programs):
    calls, pauses, both = programs
    rounds, repeated = timing.in_turns(both, 2, Scripted(STEADY, itertools.cycle([1.5, 1.4, 1.3])))
    assert len(rounds) == 2
    assert repeated == 2
    assert len(calls) == 2 + 4 * 2
    assert pauses.count(1) == 10


@pytest.mark.parametrize("patience", [0, -1])
def test_a_probe_without_patience_does_not_wait(programs, patience):
    _, pauses, _ = programs
    probe = Scripted([1.0], itertools.repeat(1.5))
    probe.patience = patience
    probe()
    probe.wait()
    assert not pauses


def test_the_probe_remembers_its_fastest():
    probe = timing.Probe(patience=0)
    seen = [probe() for _ in range(3)]
    assert 0 < probe.fastest <= min(seen)
