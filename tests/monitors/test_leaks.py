"""The verdict on meters: silent on what comes and goes, on what happens once and on a lattice that grows; not on leaks."""

from __future__ import annotations

import numpy as np
import pytest

from monitors import leaks
from monitors.leaks import CAPACITY, KIB, METERS, MIB, WARM_UP, WINDOW, Meter, Window, confirm, judge, worst

BY_NAME = {meter.name: meter for meter in METERS}
SAMPLES = 60
SEEDS = range(100)
STEPS_A_SAMPLE = 10


def verdicts(seed: int, series: dict[str, np.ndarray], works: list[int] | None = None) -> dict[str, str]:
    steps = STEPS_A_SAMPLE * np.arange(len(next(iter(series.values()))))
    judged = confirm([judge(BY_NAME[name], steps, values, works) for name, values in series.items()])
    return {each.meter.name: each.verdict for each in judged}


def host(level: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Resident, unshared and heap bytes of a process whose true use is `level`: pages wobble by MB, the heap by kB."""
    n = len(level)
    pages = 4e8 + level + random.normal(0, 1e6, n)
    return {"rss": pages, "uss": pages - 1e8 + random.normal(0, 1e5, n), "heap": 1e8 + level + random.normal(0, 5e3, n)}


def jump(random: np.random.Generator) -> np.ndarray:
    return 100 * MIB * (np.arange(SAMPLES) >= random.integers(1, SAMPLES))


def saw(random: np.random.Generator) -> np.ndarray:
    period = random.uniform(2, SAMPLES / 3)
    return 40 * MIB * ((np.arange(SAMPLES) + random.uniform(0, period)) / period % 1)


def breath(random: np.random.Generator) -> np.ndarray:
    """A slow swing that has not come round more than once or twice."""
    return 20 * MIB * np.sin(2 * np.pi * (random.uniform(1.5, 6) * np.arange(SAMPLES) / SAMPLES + random.uniform(0, 1)))


SILENT = {
    "nothing but noise": lambda random: np.zeros(SAMPLES),
    "one cache of 100 MiB, at any time": jump,
    "a saw-tooth of any period up to a third of the window": saw,
    "a cache that fills in the first third": lambda random: 64 * MIB * np.minimum(np.arange(SAMPLES) / (SAMPLES / 3), 1),
    "memory given back": lambda random: -1e6 * np.arange(SAMPLES),
}


@pytest.mark.parametrize("what", SILENT)
def test_a_hundred_clean_windows_raise_no_alarm(what):
    alarms = []
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        found = verdicts(seed, host(SILENT[what](random), random))
        alarms += [seed] if "leak" in found.values() else []
    assert alarms == []


def test_a_slow_swing_alarms_in_few_windows_at_most():
    alarms = 0
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        alarms += "leak" in verdicts(seed, host(breath(random), random)).values()
    assert alarms <= 2


@pytest.mark.parametrize("meter", ["rss", "uss", "heap"])
def test_a_straight_line_is_found_in_every_of_a_hundred_windows(meter):
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        assert verdicts(seed, host(1.5 * MIB * np.arange(SAMPLES), random))[meter] == "leak", seed


@pytest.mark.parametrize("name", ["python objects", "tensors", "descriptors", "threads"])
def test_one_more_each_step_stands_alone_within_the_least_window(name):
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        counts = 1000 + STEPS_A_SAMPLE * np.arange(WINDOW) + random.integers(0, 20, WINDOW)
        assert verdicts(seed, {name: counts}) == {name: "leak"}


@pytest.mark.parametrize("name", ["descriptors", "threads", "tensors"])
def test_viewers_that_come_and_go_are_no_leak(name):
    for seed in SEEDS:
        counts = 20 + np.random.default_rng(seed).poisson(3, SAMPLES)
        assert verdicts(seed, {name: counts}) == {name: "flat"}


def test_a_kibibyte_a_step_on_the_heap_is_found_where_pages_follow():
    level = KIB * STEPS_A_SAMPLE * np.arange(SAMPLES)
    pages = np.floor((3e8 + level) / 4096) * 4096
    assert verdicts(0, {"rss": pages, "uss": pages, "heap": 1e8 + level})["heap"] == "leak"


def test_a_byte_meter_that_nobody_confirms_is_suspicious_and_no_leak():
    grows, flat = 2e6 * np.arange(SAMPLES), np.zeros(SAMPLES)
    assert verdicts(0, {"allocated": flat, "reserved": grows, "driver": grows}) == {
        "allocated": "flat",
        "reserved": "suspicious",
        "driver": "suspicious",
    }


def test_growth_below_the_floor_is_not_spoken_of():
    floor = 10 * MIB
    meter = Meter("bytes", "bytes", floor)
    line = np.linspace(0, 1.4 * floor, SAMPLES)  # two thirds of it lie between the first and the last third's least
    assert judge(meter, range(SAMPLES), line).verdict == "flat"
    assert judge(meter, range(SAMPLES), 1.2 * line).verdict == "suspicious"


def test_the_slope_is_that_of_scipy_and_growth_is_from_trough_to_trough():
    judged = judge(BY_NAME["tensors"], [10 * i for i in range(60)], [7.0 + 5 * i for i in range(60)])
    assert (judged.slope, judged.low) == (pytest.approx(0.5), pytest.approx(0.5))
    assert judged.growth == 5 * 40 and judged.value == 7 + 5 * 59


def test_a_lattice_that_grows_is_no_leak_and_hides_none():
    random = np.random.default_rng(3)
    works = [0] * 30 + [1] * 30
    grown = np.where(np.array(works) == 1, 5e8, 0.0)
    assert set(verdicts(0, host(grown, random), works).values()) == {"flat"}
    assert verdicts(0, host(grown, random))["heap"] == "flat"  # one jump, even if the work were called the same
    leaking = host(grown + 2e6 * np.arange(60), random)
    assert set(verdicts(0, leaking, works).values()) == {"leak"}


def test_up_and_down_between_two_lattices_compares_each_with_itself():
    works = [i % 2 for i in range(60)]
    level = np.where(np.array(works) == 1, 5e8, 0.0)
    random = np.random.default_rng(4)
    assert set(verdicts(0, host(level, random), works).values()) == {"flat"}
    assert verdicts(0, host(level + 1.5e6 * np.arange(60), random), works)["rss"] == "leak"


def test_a_count_that_hardly_ever_changes_between_two_kinds_of_work_has_a_finite_bound_and_is_flat():
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        works = random.integers(0, 3, WINDOW + 4)
        counts = 6.0 + (random.random(len(works)) < 0.1)
        judged = judge(BY_NAME["threads"], 10.0 * np.arange(len(works)), counts, works)
        assert judged.verdict == "flat" and np.isfinite([judged.slope, judged.low, judged.growth]).all(), seed


def test_too_few_samples_of_equal_work_are_no_verdict():
    assert judge(BY_NAME["rss"], range(WINDOW - 1), [0.0] * (WINDOW - 1)).verdict == "measuring"
    alone = list(range(WINDOW + 10))
    assert judge(BY_NAME["rss"], alone, [0.0] * len(alone), works=alone).verdict == "measuring"


@pytest.mark.parametrize("count", [CAPACITY, CAPACITY + 1, 10 * CAPACITY + 7])
def test_a_window_of_any_length_keeps_evenly_spaced_samples_from_its_beginning_on(count):
    window = Window(warm_up=0)
    for step in range(count):
        window.add(step, "same", {"rss": 2.0 * step})
    steps, values, works = window.series("rss")
    assert steps[0] == 0 and CAPACITY // 2 <= len(steps) <= CAPACITY
    assert len(set(np.diff(steps))) == 1 and steps[-1] > count - 2 * np.diff(steps)[0]
    assert values == [2 * step for step in steps] and set(works) == {0}


def test_warm_up_is_left_out_and_meters_that_were_never_read_are_not_judged():
    window = Window()
    for step in range(WARM_UP + 3):
        window.add(step, "same", {"rss": 1.0, "tensors": float("nan")})
    assert window.series("rss")[0] == [WARM_UP, WARM_UP + 1, WARM_UP + 2]
    assert [each.meter.name for each in window.judge()] == ["rss"]


def test_a_meter_that_joins_late_has_readings_from_there_on():
    window = Window(warm_up=0)
    window.add(0, "same", {"rss": 1.0})
    window.join(Meter("late", "count", 1))
    window.add(1, "same", {"rss": 1.0, "late": 5.0})
    assert window.series("late") == ([1.0], [5.0], [0])


def test_the_worst_verdict_is_that_of_all():
    assert worst(["flat", "leak", "measuring"]) == "leak"
    assert worst(["flat", "measuring", "suspicious"]) == "measuring"
    assert worst(["flat", "suspicious"]) == "suspicious"
    assert worst(["flat"]) == "flat" and worst([]) == "measuring"


def test_only_glibc_and_proc_are_needed_for_every_host_meter():
    from monitors import meters

    read = meters.readings()
    assert set(read) == {"rss", "uss", "heap", "python objects", "descriptors", "threads"}
    assert read["rss"] >= read["uss"] > read["heap"] * 0.1 > 0
    assert sum(meters.descriptors().values()) > 0 and meters.threads()["MainThread"] == 1
    assert meters.readings(2**22 + 1) == {}


def test_every_confirming_meter_is_one_of_bytes():
    assert all(BY_NAME[name].unit == "bytes" for meter in METERS for name in meter.confirmed_by)
    assert leaks.METERS[0].name == "rss"
