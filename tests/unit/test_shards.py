"""Shards: every sample in one, whatever their number; a process that dies is named, and the others' work stays."""

import os
import signal

import pytest

from gradstore.errors import GradstoreError
from gradstore.identity import sample_id
from gradstore.pipelines.shards import WHOLE, Shard, combined, on_devices

IDS = [sample_id("oeqa", f"question {n}", None) for n in range(2000)]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_every_sample_is_in_one_shard_and_shards_are_even(count):
    owners = [[Shard(i, count).holds(name) for i in range(count)].index(True) for name in IDS]
    assert all(sum(Shard(i, count).holds(name) for i in range(count)) == 1 for name in IDS)
    sizes = [owners.count(i) for i in range(count)]
    assert max(sizes) < 1.25 * len(IDS) / count
    assert WHOLE.of(dict.fromkeys(IDS)) == dict.fromkeys(IDS)


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "0/0", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(GradstoreError, match=r"expected I/N with 0 ≤ I < N, for example 0/8"):
        Shard.parse(text)


def test_a_shard_is_read_as_it_is_written():
    assert str(Shard.parse("3/8")) == "3/8"


def test_counts_add_up_and_seconds_do_not():
    parts = [{"new": 3, "seconds": 2.0, "peak_mb": 5, "batch_tokens": 64, "probe_id": "p"}, {"new": 4, "seconds": 3.0}]
    assert combined(parts) == {"new": 7, "seconds": 3.0, "peak_mb": 5, "batch_tokens": 64, "probe_id": "p"}


def count(device, shard, progress, tell):
    progress("count", 1, 2, "note")
    tell(f"threads {os.environ.get('OMP_NUM_THREADS')}")
    return {"new": shard.index + 1, "device": device}


def die_on_second(device, shard, progress, tell):
    if shard.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"new": 1}


def fail_on_second(device, shard, progress, tell):
    if shard.index == 1:
        raise GradstoreError("no such checkpoint")
    return {"new": 1}


def test_processes_report_progress_remarks_and_sums():
    seen, said = [], []
    result = on_devices(count, ["cpu", "cpu"], lambda *a: seen.append(a), said.append)
    assert result == {"new": 3, "device": "cpu"}
    assert sorted(seen) == [(f"count, {i}: cpu", 1, 2, "note") for i in (0, 1)]
    assert len(said) == 2


def test_a_killed_process_is_named_and_nothing_hangs():
    with pytest.raises(GradstoreError, match=r"on device b: its process was killed \(SIGKILL\); what the others wrote"):
        on_devices(die_on_second, ["a", "b"])


def test_an_error_of_one_device_is_said_with_its_name():
    said: list[str] = []
    with pytest.raises(GradstoreError, match="on device b: no such checkpoint"):
        on_devices(fail_on_second, ["a", "b"], tell=said.append)
    assert said == ["b has failed, the others go on: no such checkpoint"]
    with pytest.raises(GradstoreError, match="no device was named"):
        on_devices(count, [])
