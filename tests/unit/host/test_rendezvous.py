"""Where the processes of a group meet."""

from __future__ import annotations

from orchestrator.host.rendezvous import Rendezvous


def test_each_generation_meets_at_the_next_port() -> None:
    ports = [Rendezvous(["10.0.0.1", "10.0.0.2"], 1, 8, generation).master_port for generation in (1, 2, 400, 401)]
    assert ports == [29500, 29501, 29899, 29500]


def test_two_runs_on_this_computer_meet_at_ports_of_their_own() -> None:
    """torch's store listens on all addresses of the computer."""
    runs = [Rendezvous([f"127.3.4.{number}"], 0, 1, 1).master_port for number in range(1, 21)]
    assert len(set(runs)) == 20
    again = [Rendezvous(["127.3.4.1"], 0, 1, generation).master_port for generation in range(1, 21)]
    assert len(set(again)) == 20
    assert all(20000 <= port < 29000 for port in runs + again)
