"""`make reference EVENTS=100000`: run at least as many events through the comparison, and report how they ended."""

import argparse
import multiprocessing
import sys
from collections import Counter
from time import monotonic

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.comparison.application import Application
from tests.comparison.machine import Comparison

_LIVES_AT_A_TIME = 25


def play(*, lives: int, seed: int, shrink: bool = True) -> None:
    """Run so many random stories; if something differs, raise with the story, by default with the shortest one.

    Raises:
        AssertionError: the application and the model disagree.
    """
    run_state_machine_as_test(
        _seeded(seed),
        settings=settings(
            max_examples=lives,
            stateful_step_count=25,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )


def _seeded(number: int) -> type[Comparison]:
    class Seeded(Comparison):
        """A state machine with a fixed seed."""

    seed(number)(Seeded)
    return Seeded


def _play_events(share: tuple[int, int]) -> Counter[str]:
    first_seed, events = share
    with Application() as application:
        Comparison.application = application
        Comparison.counted.clear()
        seed, began = first_seed, monotonic()
        while Comparison.counted.total() < events:
            try:
                play(lives=_LIVES_AT_A_TIME, seed=seed)
            except BaseException:
                print(f"seed {seed}: a difference", file=sys.stderr)
                raise
            played = Comparison.counted.total()
            print(f"seed {seed}: {played:,} events, {played / (monotonic() - began):.0f}/s", file=sys.stderr)
            seed += 1
    return Comparison.counted


def main() -> None:
    """Parse the command line, run the comparison and print the counts."""
    parser = argparse.ArgumentParser(
        prog="make reference", description="Compare the application with the reference model."
    )
    parser.add_argument("--events", type=int, default=100_000, help="how many events at least (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="how many processes (%(default)s)")
    options = parser.parse_args()
    share = -(-options.events // options.processes)
    shares = [(options.seed + number * 1_000_000, share) for number in range(options.processes)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        # Unordered, so that the first difference ends the run.
        counted = sum(pool.imap_unordered(_play_events, shares), Counter[str]())
    for ended, number in sorted(counted.items()):
        print(f"{number:>9,}  {ended}")
    print(f"{counted.total():>9,}  events without a difference")


if __name__ == "__main__":
    main()
