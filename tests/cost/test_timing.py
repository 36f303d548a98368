"""Times are taken in turn, ratios within rounds, memory exactly; settings say what they were taken under."""

import gc
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tiny import Clock

from spd_bench.cost import timing
from spd_bench.cost.timing import (
    PINNED,
    Timing,
    highest,
    is_pinned,
    measure,
    peak_memory,
    pinned_environment,
    ratio,
    run_pinned,
    settings,
    spread,
)

CPU = torch.device("cpu")
MB = 1_000_000


def test_median_and_quartiles_by_hand() -> None:
    # sorted 1 2 3 4 10: the quartiles lie at positions 1 and 3 of 0 … 4
    assert spread([10.0, 2.0, 1.0, 4.0, 3.0]) == (3.0, 2.0, 4.0)
    assert spread([7.0]) == (7.0, 7.0, 7.0)


def test_sums_and_ratios_are_taken_within_rounds() -> None:
    fast, slow = Timing((1.0, 2.0, 4.0)), Timing((3.0, 6.0, 12.0))
    # the machine became four times slower; the ratio of each round is 3 all the same
    assert ratio(slow, fast) == (3.0, 3.0, 3.0)
    assert (fast + slow).seconds == (4.0, 8.0, 16.0)
    assert slow.least == 3.0
    # a ratio of medians of other rounds would be 1.5: rounds 1/2, 2/1, 4/4 have the ratios 0.5, 2, 1
    assert ratio(fast, Timing((2.0, 1.0, 4.0))).median == 1.0
    with pytest.raises(ValueError, match="shorter"):
        ratio(fast, Timing((1.0, 2.0)))


def test_every_round_calls_everything_once_and_begins_one_later() -> None:
    order: list[str] = []
    told: list[tuple[int, int]] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = measure(
        calls,
        rounds=3,
        device=CPU,
        warm_up=1,
        on_call=lambda done, total: told.append((done, total)),
    )
    # the first three are the warm-up, which is not kept
    assert "".join(order) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(t.seconds) for name, t in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert told[-1] == (12, 12)


def test_the_clock_is_read_around_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    calls = {"quick": lambda: clock.sleep(0.5), "slow": lambda: clock.sleep(4.0)}
    found = measure(calls, rounds=3, device=CPU, on_call=lambda done, total: clock.sleep(32.0))
    assert found["quick"].seconds == (0.5, 0.5, 0.5)  # and nothing of what happens between the calls
    assert found["slow"].seconds == (4.0, 4.0, 4.0)
    assert ratio(found["slow"], found["quick"]).median == 8.0


def test_garbage_is_collected_between_calls_and_not_within() -> None:
    seen: list[bool] = []
    measure({"call": lambda: seen.append(gc.isenabled())}, rounds=2, device=CPU)
    assert seen == [False, False, False]
    assert gc.isenabled()


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def chain(count: int) -> torch.Tensor:
        x = torch.zeros(250_000)  # 1 MB
        for _ in range(count):
            x = x + 1  # the new one and the old one: 2 MB
        return x

    # however long the chain, two are held at most; with all kept it is one more for each
    assert peak_memory(lambda: chain(1), device=CPU) == pytest.approx(2 * MB, rel=0.01)
    assert peak_memory(lambda: chain(9), device=CPU) == pytest.approx(2 * MB, rel=0.01)
    assert peak_memory(lambda: [torch.zeros(250_000) for _ in range(5)], device=CPU) == pytest.approx(5 * MB, rel=0.01)
    assert peak_memory(lambda: None, device=CPU) == 0


def test_memory_given_back_does_not_lower_a_peak() -> None:
    # held after each change: 5, 2, 8, 0
    assert highest([5, -3, 6, -8]) == 8
    assert highest([-4, 1]) == 0


def test_settings_say_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in pinned_environment(2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    quiet = settings(CPU, precision="fp32")
    assert quiet.warnings() == []
    assert quiet.threads == torch.get_num_threads()
    assert quiet.environment["OMP_NUM_THREADS"] == "2"
    text = "\n".join(quiet.lines())
    for name, value in PINNED.items():
        assert f"{name}={value}" in text
    assert "load 0.1 before" in text
    (busy,) = replace(quiet, load=3.2).warnings()
    assert "busy (load 3.2)" in busy
    (loose,) = replace(quiet, environment={**quiet.environment, "MALLOC_TOP_PAD_": "(unset)"}).warnings()
    assert "not pinned: MALLOC_TOP_PAD_" in loose


def test_a_child_process_is_pinned_whatever_this_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert not is_pinned(3)
    check = "import sys; from spd_bench.cost.timing import is_pinned; sys.exit(7 if is_pinned(3) else 1)"
    assert run_pinned([sys.executable, "-c", check], threads=3) == 7
    for name, value in pinned_environment(3).items():
        monkeypatch.setenv(name, value)
    assert is_pinned(3)
    assert not is_pinned(2)


def test_asking_whether_it_is_pinned_imports_nothing_heavy() -> None:
    code = "import sys, spd_bench.cost.timing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_times_and_memory_on_a_gpu() -> None:
    device = torch.device("cuda")
    large = torch.rand(4096, 4096, device=device)
    calls = {"once": lambda: large @ large, "thrice": lambda: large @ large @ large @ large}
    found = measure(calls, rounds=5, device=device)
    assert 2 < ratio(found["thrice"], found["once"]).median < 4.5
    assert peak_memory(lambda: large + 1, device=device) == large.numel() * 4
