"""Text as it is written: an iterator over the pieces of an answer that is still being generated."""

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

#: What half a character decodes to: a byte-fallback token whose other bytes are still to come.
_INCOMPLETE = "�"


class _AbandonedError(Exception):
    """The reader has left; raised inside `generate` to end it."""


class TextStream(BaseStreamer):
    """A streamer for `generate` and an iterator for the reader; the pieces join to the text of the whole answer.

    transformers' TextIteratorStreamer starts its decoding anew after each line, and so loses the space that a word
    after it begins with; this one decodes from the start of the answer.

    Args:
        decode: token ids of the answer so far -> its text.
        skip_prompt: the first ids that come are the prompt.
    """

    def __init__(self, decode: Callable[[list[int]], str], *, skip_prompt: bool):
        self._decode = decode
        self._skip_prompt = skip_prompt
        self._ids: list[int] = []
        self._sent = ""
        self._abandoned = False
        self._queue: SimpleQueue[str | BaseException | None] = SimpleQueue()

    def put(self, value: torch.Tensor) -> None:
        if self._abandoned:
            raise _AbandonedError
        if self._skip_prompt:
            self._skip_prompt = False
            return
        self._ids += value.flatten().tolist()
        text = self._decode(self._ids)
        if not text.endswith(_INCOMPLETE):
            self._send(text)

    def end(self) -> None:
        self._send(self._decode(self._ids))
        self._queue.put(None)

    def _send(self, text: str) -> None:
        if len(text) > len(self._sent):
            self._queue.put(text[len(self._sent) :])
            self._sent = text

    def run(self, generate: Callable[[], Any]) -> Iterator[str]:
        """Start `generate`, which fills this stream, and yield its text; an error in it is raised here.

        A reader who stops early stops the generation at its next token.
        """

        def work() -> None:
            try:
                generate()
                self._queue.put(None)
            except _AbandonedError:
                pass
            except BaseException as error:
                self._queue.put(error)

        thread = Thread(target=work, daemon=True)
        thread.start()
        try:
            while (piece := self._queue.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self._abandoned = True
            thread.join()
