"""The feed: the same batches for any number of workers and ranks, and positions that know nothing of either."""

import random
from collections import Counter

import pytest
from helpers_train import pairs

from emu2.data.feed import Feed
from emu2.data.loader import Loader, Samples, cause_of
from emu2.data.mixture import Mixture
from emu2.data.records import Record
from emu2.data.shuffle import Order
from emu2.data.sources import BadSampleError, EndlessSource


def _mixture(**settings) -> Mixture:
    sources = {"a": pairs(7), "b": EndlessSource(lambda index: Record("b", (f"b {index}",), f"b-{index}"))}
    return Mixture(sources, {"a": 1.0, "b": 2.0}, seed=5, **settings)


def _sample(record: Record, chance: random.Random) -> tuple[str, float]:
    if record.key == "pair-3":
        raise OSError("file '/data/pair-3.jpg' ends after 17 bytes")
    return record.key, chance.random()


def _batches(read: list[Samples]) -> list:
    return [(samples.samples, samples.seeds) if samples.samples else None for samples in read]


def _feed(mixture: Mixture, **settings) -> Feed:
    loader = Loader(mixture.sources, _sample, seed=1)
    return Feed(mixture, loader, _batches, **{"micro_batches": 2, "batch_size": 4, **settings})


def _told(steps) -> list:
    return [(data.batches, data.bad, data.position) for data in steps]


def test_workers_change_nothing_and_may_change_in_number():
    alone = _told(_feed(_mixture()).steps(9))
    assert len(alone) == 9
    with_workers = _feed(_mixture(), workers=2).steps(9)
    # Workers have read ahead by now; the position is that of the step consumed all the same.
    first = _told(next(with_workers) for _ in range(4))
    assert first == alone[:4]
    mixture = _mixture()
    mixture.load_state_dict(first[-1][2])
    assert _told(_feed(mixture, workers=1).steps(9)) == alone[4:]


def test_ranks_read_slices_of_the_same_batches():
    whole = _told(_feed(_mixture()).steps(5))
    halves = [_told(_feed(_mixture(), rank=rank, size=2).steps(5)) for rank in range(2)]
    for together, *parts in zip(whole, *halves, strict=True):
        for number, batch in enumerate(together[0]):
            sides = [part[0][number] or ([], []) for part in parts]
            assert batch == (sides[0][0] + sides[1][0], sides[0][1] + sides[1][1])
        assert all(part[2] == together[2] for part in parts)
        assert parts[0][1] + parts[1][1] == together[1]


def test_a_kind_may_have_batches_of_its_own_size():
    mixture = _mixture(mode="one_kind", batch_sizes={"b": 6})
    sizes = Counter(
        (addresses[0][0], len(addresses)) for _ in range(20) for addresses in mixture.next_step(2, batch_size=4)
    )
    assert set(sizes) == {("a", 4), ("b", 6)}


def test_ranks_that_do_not_divide_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"data.batch_size=4 records are shared by 3 .*: set it to 3 or 6"):
        _feed(_mixture(), size=3)
    with pytest.raises(ValueError, match=r"data.batch_sizes.b=6 records are shared by 4 data-parallel ranks"):
        _feed(_mixture(mode="one_kind", batch_sizes={"b": 6}), size=4)


def test_a_fault_of_the_program_in_a_worker_is_told():
    def wrong(record: Record, chance: random.Random) -> None:
        raise KeyError("typo")

    mixture = _mixture()
    feed = Feed(mixture, Loader(mixture.sources, wrong), _batches, micro_batches=1, batch_size=2, workers=1)
    with pytest.raises(KeyError, match="typo"):
        next(feed.steps(1))


def test_a_source_without_records_is_refused():
    empty = pairs(2)
    empty.size = 0
    with pytest.raises(ValueError, match="source of 'a' holds no records"):
        Mixture({"a": empty}, {"a": 1.0})


def test_causes_are_counted_without_what_is_a_samples_own():
    causes = {
        cause_of("pair", OSError(f"file '/data/{name}.jpg' ends after {size} bytes"))
        for name, size in (("x", 17), ("y", 23))
    }
    assert causes == {"pair: OSError: file ... ends after N bytes"}
    assert cause_of("pair", BadSampleError("missing caption", "member 00017.txt")) == "pair: missing caption"
    data = next(_feed(_mixture(), micro_batches=8).steps(1))
    assert sum(data.bad.values()) >= 1
    assert set(data.bad) == {"a: OSError: file ... ends after N bytes"}
    assert data.examples["a: OSError: file ... ends after N bytes"] == "file '/data/pair-3.jpg' ends after 17 bytes"


@pytest.mark.parametrize("size", [1, 2, 1000, (1 << 20) + 3])
def test_an_order_names_every_row_once(size):
    order, other = Order(size, "one"), Order(size, "other")
    places = range(size) if size <= 1000 else random.Random(0).sample(range(size), 3000)
    rows = [order[place] for place in places]
    assert len(set(rows)) == len(rows)
    assert all(0 <= row < size for row in rows)
    assert rows == [Order(size, "one")[place] for place in places]
    if size >= 1000:
        assert rows != [other[place] for place in places]
        # Neighbours in the order are strangers in the table: no slope, no clusters.
        assert abs(sum(rows) / len(rows) / size - 0.5) < 0.02
    with pytest.raises(IndexError):
        order[size]
