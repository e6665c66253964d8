"""Rounds in which the machine was slow are left out, whatever the programs took, and never without end."""

import itertools
import math

import pytest

from experiments.benchmarks import timing


class Scripted:
    """A probe that takes given times."""

    def __init__(self, seconds):
        self.seconds = iter(seconds)
        self.fastest = math.inf

    def __call__(self):
        taken = next(self.seconds)
        self.fastest = min(self.fastest, taken)
        return taken


@pytest.fixture
def programs(monkeypatch):
    """Two programs that record being run."""
    monkeypatch.setattr(timing, "_REST", 0.0)
    calls = []
    return calls, [lambda: calls.append("a"), lambda: calls.append("b")]


def test_programs_run_in_turns_after_a_first_run_each(programs):
    calls, both = programs
    rounds, repeated = timing.in_turns(both, 3, Scripted(itertools.repeat(1.0)))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert len(rounds) == 3
    assert repeated == 0


def test_a_round_on_a_slow_machine_is_repeated(programs):
    calls, both = programs
    slow_at_the_end_of_the_second = [1.0, 1.0, 1.1, 1.0, 1.0, 1.2]
    rounds, repeated = timing.in_turns(both, 3, Scripted([*slow_at_the_end_of_the_second, *[1.0] * 6]))
    assert [r.slowness for r in rounds] == [1.0, 1.0, 1.1]
    assert repeated == 1
    assert len(calls) == 2 + 4 * 2


def test_a_round_counted_before_the_machine_was_seen_fast_is_repeated(programs):
    _, both = programs
    rounds, repeated = timing.in_turns(both, 2, Scripted([2.0] * 3 + [1.0] * 6))
    assert [r.slowness for r in rounds] == [1.0, 1.0]
    assert repeated == 1


def test_a_machine_that_stays_slow_is_measured_all_the_same(programs):
    calls, both = programs
    always = itertools.chain([1.0], itertools.cycle([1.5, 1.4, 1.3]))
    rounds, repeated = timing.in_turns(both, 2, Scripted(always))
    assert len(rounds) == 2
    assert repeated == 2
    assert len(calls) == 2 + 4 * 2


def test_the_probe_remembers_its_fastest():
    probe = timing.Probe()
    seen = [probe() for _ in range(3)]
    assert 0 < probe.fastest <= min(seen)
