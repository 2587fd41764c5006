"""The fleet on paper, where the answer is known by hand."""

from dataclasses import replace

import pytest

from dinotile.benchmarks.fleet_model import HOUR, World, limits, simulated

EASY = World(
    seconds=10, spread=0, read=0.01, written=0.04, model=10, bandwidth=1, load=5, mtbf=1e12, share=0.01, look=0
)


def test_one_gpu_takes_the_sum_of_its_parts():
    ran = simulated(EASY, 1, 100)
    assert ran["hours"] * HOUR == pytest.approx(15 + 100 * (10 + 0.05 + 0.01))
    assert ran["shares"]["computing"] == pytest.approx(1000 / 1021) and sum(ran["shares"].values()) == pytest.approx(1)


def test_what_is_shared_bounds_the_rate_where_it_is_full():
    slow = replace(EASY, share=1.0, model=0)
    assert limits(slow)["the process that shares out"] == pytest.approx(10)
    rates = [400 / simulated(slow, gpus, 400)["hours"] / HOUR for gpus in (4, 20, 40)]
    assert rates[0] == pytest.approx(4 / 11.05, rel=0.05) and rates[1:] == pytest.approx([1, 1], rel=0.05)
    thin = replace(EASY, written=2.0, model=0)
    assert limits(thin)["the storage"] == pytest.approx(10 / 2.01)
    assert 4000 / simulated(thin, 50, 4000)["hours"] / HOUR == pytest.approx(1 / 2.01, rel=0.1)  # a convoy


def test_lost_workers_cost_time_and_no_picture():
    calm = replace(EASY, model=0)
    calm, lost = simulated(calm, 8, 400), simulated(replace(calm, mtbf=60 / HOUR), 8, 400)
    assert lost["hours"] > 1.1 * calm["hours"] and lost["shares"]["lost"] > 0.02
    computed = lost["shares"]["computing"] * 8 * lost["hours"] * HOUR
    assert computed == pytest.approx(400 * 10)  # each picture once, whatever was lost
