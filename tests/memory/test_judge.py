"""Everything that matters is said, and said once."""

from collections.abc import Iterable, Sequence

from cortexd.memory.judge import Finding, Foreign, Judge, Relieve, Sample, Standing, Warn
from cortexd.memory.pressure import Pressure

CEILING = 1000
CALM, BETWEEN, SOME, FULL = Pressure(9, 2), Pressure(15, 1), Pressure(21, 0), Pressure(0, 6)


def judged(samples: Iterable[Sample]) -> list[list[Finding]]:
    judge = Judge()
    return [judge.judge(sample) for sample in samples]


def filling(used: Sequence[int]) -> list[list[str]]:
    """Which warnings it takes to fill a device with models like this."""
    samples = (Sample(2.0 * n, {"cuda:0": Standing(CEILING, ours, 0)}) for n, ours in enumerate(used))
    return [[f.reason.split()[0] for f in found if isinstance(f, Warn)] for found in judged(samples)]


def others(*used: int, every: float = 2.0) -> list[list[Finding]]:
    return judged(Sample(every * n, {"cpu": Standing(CEILING, 0, foreign)}) for n, foreign in enumerate(used))


def warned(found: list[list[Finding]]) -> list[int]:
    return [number for number, findings in enumerate(found) if any(isinstance(f, Warn) for f in findings)]


def pressed(*looks: tuple[float, Pressure | None]) -> list[list[type[Finding]]]:
    samples = (Sample(at, {"cpu": Standing(CEILING, 100, 0)}, pressure) for at, pressure in looks)
    return [[type(f) for f in found] for found in judged(samples)]


def test_each_level_is_told_once_on_the_way_up():
    assert filling([799, 800, 810, 949, 950, 1000]) == [[], ["80%"], [], [], ["95%"], []]


def test_a_jump_over_both_levels_is_one_warning():
    assert filling([100, 990, 990]) == [[], ["99%"], []]


def test_swaying_about_a_level_is_told_once_and_coming_again_from_well_below_is_told_again():
    assert filling([800, 760, 805, 749, 800]) == [["80%"], [], [], [], ["80%"]]


def test_leaving_the_upper_level_does_not_leave_the_lower():
    assert filling([960, 890, 960, 890, 810]) == [["96%"], [], ["96%"], [], []]


def test_a_warning_carries_what_models_and_others_use_together():
    (found,) = judged([Sample(0, {"cpu": Standing(CEILING, 500, 400)})])
    assert found == [Foreign("cpu", 400), Warn("cpu", 900, CEILING, "90% of the budget are in use")]


def test_others_are_told_of_when_they_have_changed_by_more_than_a_hundredth():
    found = others(10, 11, 20, 21, 22, 5, every=60)
    told = [[f.used for f in findings if isinstance(f, Foreign)] for findings in found]
    assert told == [[], [11], [], [], [22], [5]]


def test_a_sudden_growth_of_others_is_a_warning_and_what_was_there_at_the_start_is_none():
    found = others(300, 340, 351, 360)
    assert warned(found) == [2]
    assert Warn("cpu", 351, CEILING, "other programs have taken 51 B more within 30 s") in found[2]


def test_a_slow_growth_of_others_is_none():
    assert warned(others(*range(0, 700, 3))) == []  # 45 within 30 s


def test_one_growth_is_one_warning_however_long_it_lasts():
    assert warned(others(*range(0, 700, 10))) == [6]


def test_growth_that_has_come_to_rest_may_begin_anew():
    assert warned(others(0, 60, 60, 60, 130, every=20)) == [1, 4]


def test_a_lower_ceiling_is_no_growth():
    found = judged(Sample(at, {"cpu": Standing(900 - 100 * n, 0, 100 * n)}) for n, at in enumerate((0.0, 2.0)))
    assert found == [[], [Foreign("cpu", 100)]]


def test_pressure_is_told_once_and_relief_asked_for_every_ten_seconds():
    looks = [(at, SOME) for at in (0.0, 2.0, 9.0, 10.0, 19.0, 21.0)]
    assert pressed(*looks) == [[Warn, Relieve], [], [], [Relieve], [], [Relieve]]


def test_pressure_is_over_only_below_half():
    looks = [(0.0, FULL), (20.0, BETWEEN), (40.0, SOME), (60.0, CALM), (80.0, SOME)]
    assert pressed(*looks) == [[Warn, Relieve], [], [Relieve], [], [Warn, Relieve]]


def test_pressure_that_comes_and_goes_asks_for_relief_no_more_often():
    assert pressed((0.0, SOME), (2.0, CALM), (4.0, SOME)) == [[Warn, Relieve], [], [Warn]]


def test_relief_is_a_twentieth_of_the_hosts_ceiling():
    (found,) = judged([Sample(0, {"cpu": Standing(CEILING, 0, 0), "cuda:0": Standing(9, 0, 0)}, SOME)])
    assert [f for f in found if isinstance(f, Relieve)] == [Relieve("cpu", 50)]


def test_a_kernel_that_does_not_measure_pressure_is_calm():
    assert pressed((0.0, None), (2.0, None)) == [[], []]


def test_a_device_without_a_budget_is_never_full():
    assert judged([Sample(0, {"cpu": Standing(0, 0, 0)})]) == [[]]


def test_devices_are_judged_each_for_itself():
    full, empty = Standing(CEILING, 990, 0), Standing(CEILING, 0, 0)
    found = judged(Sample(at, {"cuda:0": full, "cuda:1": empty if at < 2 else full}) for at in (0.0, 2.0))
    assert [[f.device for f in findings if isinstance(f, Warn)] for findings in found] == [["cuda:0"], ["cuda:1"]]
