import pytest

from ray_asd.errors import RunFailed
from ray_asd.pipelines.in_flight import InFlight


def crash(in_flight: InFlight, shard: str, uri: str) -> None:
    """A worker takes up the shard, touches the recording, and is no more."""
    in_flight.enter(shard)
    in_flight.alone(shard, uri)


def test_a_shard_that_is_taken_up_again_goes_one_by_one_and_without_what_crashed() -> None:
    in_flight = InFlight(100)
    assert in_flight.enter("s") == (False, [])
    assert in_flight.enter("s") == (True, [])
    in_flight.alone("s", "a")
    in_flight.alone("s", "b")
    assert in_flight.enter("s") == (True, ["b"])
    in_flight.leave("s")
    assert in_flight.enter("another") == (False, [])


@pytest.mark.parametrize(("recordings", "most"), [(100, 10), (2000, 20)])
def test_too_many_that_crash_are_the_machines_fault(recordings: int, most: int) -> None:
    in_flight = InFlight(recordings)
    for number in range(most):
        crash(in_flight, f"s{number}", f"u{number}")
        assert in_flight.enter(f"s{number}") == (True, [f"u{number}"])
    crash(in_flight, "s", "one more")
    with pytest.raises(RunFailed, match=f"{most + 1} recordings ended the process that read them"):
        in_flight.enter("s")


def test_workers_that_die_beside_any_recording_end_the_run() -> None:
    in_flight = InFlight(100)
    for _ in range(6):
        in_flight.enter("s")
    with pytest.raises(RunFailed, match="workers died 6 times over the shard s"):
        in_flight.enter("s")
