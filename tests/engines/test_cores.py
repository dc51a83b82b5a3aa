"""Cores are shared by those who compute, and by nobody else."""

from cortexd.engines.cores import Cores


class Engine:
    def __init__(self) -> None:
        self.told: list[int] = []

    def grant(self, threads: int) -> None:
        self.told.append(threads)


def test_one_engine_has_all_cores_and_two_share_them():
    cores, first, second = Cores(4), Engine(), Engine()
    one, two = first.grant, second.grant
    cores.begin(one)
    cores.begin(two)
    cores.end(one)
    assert first.told == [4, 2]
    assert second.told == [2, 4]


def test_more_engines_than_cores_have_one_thread_each():
    cores, engines = Cores(2), [Engine() for _ in range(3)]
    for engine in engines:
        cores.begin(engine.grant)
    assert [engine.told for engine in engines] == [[2, 1], [1], [1]]


def test_nobody_is_told_what_they_know_and_ending_twice_is_harmless():
    cores, engine = Cores(1), Engine()
    grant = engine.grant
    cores.begin(grant)
    cores.end(grant)
    cores.end(grant)
    cores.begin(grant)
    assert engine.told == [1, 1]
