"""The trie of kept states, against a model of it that remembers everything in a dictionary."""

from array import array
from dataclasses import dataclass
from time import perf_counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cortexd.rwkv.prefix_cache import Prefix, PrefixCache
from cortexd.rwkv.reading import Reading
from cortexd.wire import CacheLimits

PLENTY = CacheLimits(host=10**9, disk=10**9)


@dataclass(frozen=True)
class FakeState:
    """Knows what it is the state after."""

    prefix: Prefix
    nbytes: int = 100


class FakeFiles:
    """Implements `cortexd.rwkv.prefix_cache.Files`; writes at once."""

    def __init__(self) -> None:
        self.files: dict[Prefix, FakeState] = {}
        self.touched: list[Prefix] = []

    def known(self) -> list[Prefix]:
        return list(self.files)

    def read(self, prefix: Prefix) -> FakeState | None:
        return self.files.get(prefix)

    def write(self, prefix: Prefix, state: FakeState) -> None:
        self.files[prefix] = state

    def touch(self, prefix: Prefix) -> None:
        self.touched.append(prefix)

    def limit(self, count: int) -> None:
        pass

    def forget(self) -> None:
        self.files.clear()

    def close(self) -> None:
        pass


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def piece(token: int, length: int = 1) -> bytes:
    return array("I", [token] * length).tobytes()


def reading(*tokens: int, start: str = "", length: int = 1, lasting: bool = False) -> Reading:
    """Whose state is kept after each piece."""
    pieces = [piece(token, length) for token in tokens]
    return Reading(start, pieces, dict.fromkeys(range(1, len(pieces) + 1), lasting))


def read(cache: PrefixCache[FakeState], it: Reading) -> int:
    """To its end; how many pieces were found."""
    state = cache.resume(it)
    found = it.done
    assert (state is None) == (not found)
    if state is not None:
        assert state.prefix == prefix_of(it)
    while it.left:
        it.next()
        cache.note(it, lambda: FakeState(prefix_of(it)))
    return found


def prefix_of(it: Reading) -> Prefix:
    return Prefix(it.start, tuple(it.pieces[: it.done]))


def cache_of(limits: CacheLimits = PLENTY, files: FakeFiles | None = None) -> PrefixCache[FakeState]:
    cache: PrefixCache[FakeState] = PrefixCache(files, Clock())
    cache.limit(limits)
    return cache


class AgainstADictionary(RuleBasedStateMachine):
    """What is found is the longest of what was kept, or, in memory with too little room, one of it."""

    @initialize(with_files=st.booleans())
    def begin(self, with_files: bool) -> None:
        self.files = FakeFiles() if with_files else None
        self.clock = Clock()
        self.cache: PrefixCache[FakeState] = PrefixCache(self.files, self.clock)
        self.limits = CacheLimits(host=500, disk=1000)
        self.cache.limit(self.limits)
        self.kept: set[Prefix] = set()
        self.lost = False  # something may have been dropped

    @rule(
        tokens=st.lists(st.integers(1, 2), min_size=1, max_size=6),
        start=st.sampled_from(["", "poet"]),
        lasting=st.booleans(),
        seconds=st.sampled_from([0.0, 1.0, 100.0]),
    )
    def read(self, tokens: list[int], start: str, lasting: bool, seconds: float) -> None:
        self.clock.now += seconds
        it = reading(*tokens, start=start, lasting=lasting)
        longest = max((n for n in range(len(tokens)) if Prefix(start, tuple(it.pieces[:n])) in self.kept), default=0)
        on_disk = set(self.files.files) if self.files else set()
        least = max((n for n in range(len(tokens)) if Prefix(start, tuple(it.pieces[:n])) in on_disk), default=0)
        found = read(self.cache, it)
        if not self.limits.enabled:
            assert not found
            return
        assert least <= found <= longest
        assert self.lost or found == longest
        if self.limits.host or (lasting and self.files):
            self.kept |= {Prefix(start, tuple(it.pieces[:n])) for n in range(1, len(tokens) + 1)}
        self.lost = self.lost or len(self.kept) * 100 > self.limits.host

    @rule(host=st.sampled_from([0, 99, 300, 500, 10**6]), enabled=st.booleans())
    def limit(self, host: int, enabled: bool) -> None:
        self.limits = CacheLimits(host=host, disk=1000, enabled=enabled)
        self.cache.limit(self.limits)
        self.lost = True

    @rule()
    def forget(self) -> None:
        self.cache.forget()
        self.kept.clear()

    @rule()
    def release(self) -> None:
        self.cache.release()
        self.lost = True
        assert self.cache.held == 0

    @precondition(lambda self: self.files and self.files.files)
    @rule(data=st.data())
    def somebody_removes_a_file(self, data: st.DataObject) -> None:
        assert self.files is not None
        del self.files.files[data.draw(st.sampled_from(sorted(self.files.files)))]
        self.lost = True

    @precondition(lambda self: self.files)
    @rule()
    def another_worker_takes_over(self) -> None:
        self.cache = PrefixCache(self.files, self.clock)
        self.cache.limit(self.limits)
        self.lost = True

    @invariant()
    def no_more_is_held_than_allowed(self) -> None:
        room = self.limits.host if self.limits.enabled else 0
        states = [node.state for node in self.cache._nodes() if node.state is not None]
        assert self.cache.held == sum(state.nbytes for state in states) <= room

    @invariant()
    def no_branch_leads_nowhere(self) -> None:
        for node in self.cache._nodes():
            assert node.children or node.state is not None or node.filed or node.parent is None


TestAgainstADictionary = AgainstADictionary.TestCase
TestAgainstADictionary.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_whole_prompt_is_never_found_for_its_last_piece_gives_the_first_token():
    cache = cache_of()
    read(cache, reading(1, 2, 3))
    assert read(cache, reading(1, 2, 3)) == 2
    assert read(cache, reading(1, 2, 3, 4)) == 3


def test_what_was_found_is_counted_in_tokens():
    cache = cache_of()
    read(cache, reading(1, 2, length=128))
    again = reading(1, 2, 3, length=128)
    read(cache, again)
    assert again.cached == 256


def test_nothing_is_found_that_began_from_something_else():
    cache = cache_of()
    read(cache, reading(1, 2, start="poet"))
    assert read(cache, reading(1, 2, 3)) == 0


def test_the_same_tokens_cut_elsewhere_are_not_found():
    cache = cache_of()
    read(cache, reading(7, 7, length=3))
    assert read(cache, reading(7, 7, 7, length=2)) == 0


def test_without_room_the_state_goes_first_that_saves_least():
    cache = cache_of(CacheLimits(host=300))
    long, short = reading(1, length=100), reading(2, length=10)
    read(cache, long)
    read(cache, short)
    read(cache, reading(3, 4, length=50))  # the fourth does not fit
    assert cache.has("", long.pieces)
    assert not cache.has("", short.pieces)


def test_without_room_what_was_not_used_for_long_goes_first_of_those_that_save_as_much():
    clock = Clock()
    cache: PrefixCache[FakeState] = PrefixCache(None, clock)
    cache.limit(CacheLimits(host=200))
    for token in (1, 2):
        clock.now += 10
        read(cache, reading(token, length=50))
    clock.now += 10
    assert read(cache, reading(1, 9, length=50)) == 1  # used now
    assert cache.has("", [piece(1, 50)])
    assert not cache.has("", [piece(2, 50)])


def test_a_state_is_worth_more_once_those_before_it_are_gone():
    clock = Clock()
    cache: PrefixCache[FakeState] = PrefixCache(None, clock)
    cache.limit(CacheLimits(host=400))
    chat = reading(1, 2, 3, 4, length=10)
    read(cache, chat)
    for token in range(10, 14):
        clock.now += 1
        read(cache, reading(token, length=15))
    clock.now += 1
    left = [n for n in range(1, 5) if cache.has("", chat.pieces[:n])]
    assert left == [4]  # which now saves the whole chat


def test_what_is_on_the_disk_outlives_the_memory_and_the_worker():
    files = FakeFiles()
    cache = cache_of(files=files)
    read(cache, reading(1, 2, lasting=True))
    cache.release()
    assert read(cache, reading(1, 2, 3)) == 2
    assert read(cache_of(files=files), reading(1, 2, 3)) == 2


def test_a_hit_in_memory_keeps_the_file_young():
    files = FakeFiles()
    cache = cache_of(files=files)
    read(cache, reading(1, lasting=True))
    read(cache, reading(1, 2))
    assert files.touched == [Prefix("", (piece(1),))]


def test_switched_off_it_neither_finds_nor_keeps_but_what_is_on_the_disk_stays():
    files = FakeFiles()
    cache = cache_of(files=files)
    read(cache, reading(1, 2, lasting=True))
    cache.limit(CacheLimits(host=10**9, disk=10**9, enabled=False))
    assert cache.held == 0
    assert not cache.keeps
    assert read(cache, reading(1, 2, 3, lasting=True)) == 0
    assert len(files.files) == 2
    cache.limit(PLENTY)
    assert read(cache, reading(1, 2, 3, lasting=True)) == 2


def test_a_state_that_is_there_is_not_copied_again():
    cache = cache_of()
    first = reading(1)
    read(cache, first)
    again = reading(1)
    again.next()

    def copy() -> FakeState:
        raise AssertionError("it is there")

    cache.note(again, copy)


@given(st.integers(1, 3))
@settings(deadline=None, max_examples=3)
def test_a_prompt_of_a_hundred_thousand_tokens_is_looked_up_in_no_time(seed: int):
    cache = cache_of()
    read(cache, reading(*([seed] * 800), length=128))
    it = reading(*([seed] * 800), 9, length=128)
    times: list[float] = []
    for _ in range(5):
        it.done = 0
        began = perf_counter()
        assert cache.resume(it) is not None
        times.append(perf_counter() - began)
    assert it.cached == 102_400
    assert min(times) < 0.01
