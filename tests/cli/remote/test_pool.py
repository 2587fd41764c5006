"""How servers share jobs: who gets what, and what becomes of a job whose server fails or is gone."""

import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from dinotile.cli.remote.pool import STRIKES, Gone, Job, Pool


def jobs(count):
    return [Job(Path(f"{number}.png"), Path(f"out/{number}.png")) for number in range(count)]


def run(count, names, work):
    """The events, and the pool afterwards."""
    pool = Pool(jobs(count), names, work)
    return list(pool.run(stop=lambda: None)), pool


def of(events, kind):
    return [event for event in events if event.kind == kind]


def test_each_job_is_done_once_and_all_servers_take_part():
    met = threading.Barrier(3, timeout=60)

    def work(name, job):
        if int(job.source.stem) < 3:
            met.wait()  # passes where three servers work at the same time
        return f"{name} {job.source}"

    events, pool = run(20, ["a", "b", "c"], work)
    assert Counter(event.job.source.name for event in of(events, "done")) == {f"{n}.png": 1 for n in range(20)}
    assert {event.name for event in of(events, "done")} == {"a", "b", "c"} and not pool.waiting
    assert all(event.result == f"{event.name} {event.job.source}" for event in of(events, "done"))


def test_a_job_of_a_server_that_is_gone_is_the_next_of_another():
    gone = threading.Event()

    def work(name, job):
        if name == "b":
            gone.set()
            raise Gone("it vanished")
        assert gone.wait(60)

    events, pool = run(6, ["a", "b"], work)
    assert len(of(events, "done")) == 6 and {event.name for event in of(events, "done")} == {"a"}
    assert [(event.name, event.why) for event in of(events, "out")] == [("b", "it vanished")] and not of(
        events, "failed"
    )
    lost = next(event.job for event in of(events, "begun") if event.name == "b")
    begun = [event.job for event in of(events, "begun") if event.name == "a"]
    assert begun.index(lost) <= 1  # after what a had begun


def test_where_all_are_gone_the_rest_is_left_and_nothing_counts_as_failed():
    def work(name, job):
        if int(job.source.stem) >= 2:
            raise Gone("it vanished")

    events, pool = run(5, ["a", "b"], work)
    assert len(of(events, "done")) == 2 and len(of(events, "out")) == 2 and not of(events, "failed")
    assert sorted(job.source.stem for job in pool.waiting) == ["2", "3", "4"]


def test_a_job_that_fails_on_one_server_is_tried_on_another_and_once_only_on_each():
    tried = []

    def work(name, job):
        tried.append((name, job.source.stem))
        if name == "a" and job.source.stem == "1":
            raise ValueError("a lacks it")
        if job.source.stem == "2":
            raise ValueError("no picture")

    events, _ = run(4, ["a", "b", "c"], work)
    (failed,) = of(events, "failed")
    assert failed.job.source.stem == "2" and failed.why == "no picture" and len(failed.job.tried) == 2
    assert len(of(events, "done")) == 3 and len(set(tried)) == len(tried)


def test_with_one_server_a_failure_is_one_at_once():
    def work(name, job):
        raise ValueError("no picture")

    events, pool = run(5, ["a"], work)
    assert len(of(events, "failed")) == 5 and not of(events, "out") and not pool.waiting


def test_a_server_on_which_all_fails_while_another_works_is_left_out():
    struck, failures = threading.Event(), []

    def work(name, job):
        if name == "a" and pool.worked:
            assert struck.wait(60)
        elif name == "b":
            while not pool.worked:
                time.sleep(0.001)
            failures.append(job)
            if len(failures) == STRIKES:
                struck.set()
            raise ValueError("b lacks a model")

    pool = Pool(jobs(40), ["a", "b"], work)
    events = list(pool.run(stop=lambda: None))
    assert len(of(events, "done")) == 40
    (out,) = of(events, "out")
    assert out.name == "b" and f"{STRIKES} pictures in a row failed there and not elsewhere" in out.why
    assert len([event for event in of(events, "begun") if event.name == "b"]) == STRIKES


def test_a_fault_of_the_program_is_raised_and_work_is_told_to_stop():
    stopped, begun = threading.Event(), threading.Event()

    def work(name, job):
        if job.source.stem == "0":
            begun.set()
            assert stopped.wait(60)
            raise ValueError("stopped")
        assert begun.wait(60)
        raise KeyError("a fault")

    pool = Pool(jobs(2), ["a", "b"], work)
    with pytest.raises(KeyError):
        list(pool.run(stop=stopped.set))
    assert stopped.is_set()
