"""What every reader is: records by index, from files that are listed when it is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod

from emu2.data.readers.config import SourceConfig
from emu2.data.records import Record


class Reader(ABC):
    """A `Source` of files.

    A reader sets `size` when it is opened, and gives records in `read` and their list's fingerprint in `listing`.
    Everything it keeps can be pickled, and files are opened for each read, so worker processes share nothing.

    Args:
        config: of the source.
        kind: of the records it makes.
    """

    size: int | None

    def __init__(self, config: SourceConfig, kind: str):
        self.config, self.kind = config, kind

    @abstractmethod
    def read(self, index: int) -> Record:
        """The record at an index from 0 to `size` - 1."""

    @abstractmethod
    def listing(self) -> str:
        """Changes when the files that are read do."""

    def __len__(self) -> int:
        return self.size or 0

    def __getitem__(self, index: int) -> Record:
        """The record at an index.

        Raises:
            IndexError: there is no such record.
            BadSampleError, OSError: this one is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"The source has records 0 to {len(self) - 1}; asked for {index}.")
        return self.read(index)

    def fingerprint(self) -> str:
        return f"{self.listing()} {self.size}"

    def _set_size(self, found: int) -> None:
        self.size = found if self.config.limit is None else min(found, self.config.limit)
