"""Sources, mixture and loader: weights, epochs, positions."""

import random
from collections import Counter

import pytest
from helpers_train import pair, pairs

from emu2.data.loader import Loader
from emu2.data.mixture import Mixture
from emu2.data.records import Record
from emu2.data.sources import EndlessSource, ListSource, PooledSource


def endless(kind: str) -> EndlessSource:
    return EndlessSource(lambda index: Record(kind, (f"{kind} {index}",), f"{kind}-{index}"))


def take(mixture: Mixture, steps: int, micro: int = 2, size: int = 5) -> list:
    return [mixture.next_step(micro, size) for _ in range(steps)]


def test_kinds_come_by_weight():
    mixture = Mixture({"a": endless("a"), "b": endless("b")}, {"a": 3.0, "b": 1.0}, seed=1)
    kinds = Counter(kind for step in take(mixture, 200) for batch in step for kind, _ in batch)
    assert kinds["a"] / 2000 == pytest.approx(0.75, abs=0.04)
    assert mixture.taken == dict(kinds)


def test_one_kind_fills_a_whole_step():
    sources = {"a": endless("a"), "b": endless("b")}
    steps = take(Mixture(sources, {"a": 1.0, "b": 1.0}, mode="one_kind"), 60)
    kinds = [{kind for batch in step for kind, _ in batch} for step in steps]
    assert all(len(found) == 1 for found in kinds)
    assert {kind for found in kinds for kind in found} == {"a", "b"}


def test_endless_sources_never_repeat():
    mixture = Mixture({"a": endless("a"), "b": endless("b")}, {"a": 1.0, "b": 1.0})
    seen = [address for step in take(mixture, 30) for batch in step for address in batch]
    assert len(set(seen)) == len(seen)


def test_a_finite_source_is_walked_once_an_epoch_in_fresh_order():
    mixture = Mixture({"a": pairs(10)}, {"a": 1.0}, seed=3)
    steps = take(mixture, 3)
    epochs = [[index for batch in step for _, index in batch] for step in steps]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("mode", ["mixed", "one_kind"])
def test_kinds_that_open_are_read_alone_one_after_another(mode):
    sources = {kind: endless(kind) for kind in "abc"}
    opening = {"b": 3, "a": 2}
    mixture = Mixture(sources, dict.fromkeys("abc", 1.0), mode=mode, opening=opening, batch_sizes={"b": 4})
    steps = take(mixture, 40)
    kinds = [{kind for batch in step for kind, _ in batch} for step in steps]
    assert kinds[:5] == [{"b"}] * 3 + [{"a"}] * 2
    assert set().union(*kinds[5:]) == {"a", "b", "c"}
    assert [len(batch) for step in steps[:4] for batch in step] == [4] * 6 + [5] * 2
    # what comes after is what would have come anyway, of records not read yet
    plain = take(Mixture(sources, dict.fromkeys("abc", 1.0), mode=mode, batch_sizes={"b": 4}), 40)
    assert [[kind for kind, _ in step[0]] for step in steps[5:]] == [
        [kind for kind, _ in step[0]] for step in plain[5:]
    ]


@pytest.mark.parametrize("mode", ["mixed", "one_kind"])
def test_what_follows_a_position_is_the_same(mode):
    def make() -> Mixture:
        return Mixture({"a": pairs(7), "b": endless("b")}, {"a": 1.0, "b": 2.0}, mode=mode, seed=5, opening={"b": 7})

    whole = make()
    expected = take(whole, 12)
    first = make()
    assert take(first, 5) == expected[:5]
    second = make()
    second.load_state_dict(first.state_dict())
    assert take(second, 7) == expected[5:]
    assert second.state_dict() == whole.state_dict()


def test_a_position_of_other_kinds_is_refused():
    mixture = Mixture({"a": endless("a")}, {"a": 1.0})
    with pytest.raises(ValueError, match=r"position is over the kinds \['b'\], this mixture over \['a'\]"):
        mixture.load_state_dict({"step": 1, "taken": {"b": 4}})


def test_a_weight_without_source_is_refused():
    with pytest.raises(ValueError, match="weighs 'b', but has no source for it"):
        Mixture({"a": endless("a")}, {"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match="needs a weight above 0"):
        Mixture({"a": endless("a")}, {"a": 0.0})


def test_a_pool_makes_each_record_once():
    made = []

    def make(index: int) -> Record:
        made.append(index)
        return pair(index)

    pool = PooledSource(EndlessSource(make), 3)
    assert pool.size == 3
    assert pool[1] is pool[1]
    assert made == [1]
    assert PooledSource(pairs(2), 5).size == 2


def test_sources_refuse_to_be_empty():
    with pytest.raises(ValueError, match="needs at least one record"):
        ListSource([])
    with pytest.raises(ValueError, match="A pool holds at least one record"):
        PooledSource(pairs(2), 0)


def test_the_loader_sets_bad_samples_aside_and_gives_each_its_own_chance():
    def sample(record: Record, chance: random.Random) -> float:
        if record.key == "pair-2":
            raise OSError("truncated file")
        return chance.random()

    loader = Loader({"pair": pairs(6)}, sample, seed=1)
    addresses = [("pair", index) for index in range(6)]
    read = loader.read(addresses, (0, 0))
    assert read.keys == ["pair-0", "pair-1", "pair-3", "pair-4", "pair-5"]
    assert read.bad == {"pair: OSError: truncated file": 1}
    assert len(set(read.samples)) == len(set(read.seeds)) == 5
    assert loader.read(addresses, (0, 0)) == read
    assert loader.read(addresses, (1, 0)).samples != read.samples
    # A rank that reads the second half finds there what one process finds.
    half = loader.read(addresses[3:], (0, 0), first=3)
    assert (half.samples, half.seeds) == (read.samples[2:], read.seeds[2:])


def test_a_fault_of_the_program_is_no_bad_sample():
    def sample(record: Record, chance: random.Random) -> None:
        raise KeyError("typo")

    with pytest.raises(KeyError):
        Loader({"pair": pairs(2)}, sample).read([("pair", 0)], (0,))
