"""Records before they become sequences: order, frames of clips."""

import random

import pytest
from helpers_train import SIDE, pair
from PIL import Image

from emu2 import Video
from emu2.data.arrange import image_first, interleaves, is_pair, text_first, with_frames
from emu2.data.records import Record, Sought
from emu2.processing.grounding import Box


def _story(pages: int) -> Record:
    segments = [s for i in range(pages) for s in (f"page {i}", Image.new("RGB", (4, 4), (i, i, i)))]
    return Record("document", tuple(segments), "story")


def _clip(frames: int) -> Video:
    return Video([Image.new("RGB", (4, 4), (i, i, i)) for i in range(frames)], fps=16.0)


def _shades(clip: Video) -> list[int]:
    return [frame.getpixel((0, 0))[0] for frame in clip]


def test_a_document_of_pairs_goes_either_way():
    story = _story(3)
    assert interleaves(story)
    assert not is_pair(story)
    turned = image_first(story)
    assert [isinstance(segment, str) for segment in turned.segments] == [False, True] * 3
    assert [s for s in turned.segments if isinstance(s, str)] == ["page 0", "page 1", "page 2"]
    assert turned.segments[0] is story.segments[1]  # every text keeps its picture
    assert text_first(turned).segments == text_first(story).segments == story.segments


def test_a_page_of_the_web_goes_either_way():
    one, two, three = (Image.new("RGB", (4, 4), (i, i, i)) for i in range(3))
    page = Record("document", ("a", one, "b", two, three, "c"), "page")
    assert image_first(page).segments == (one, "a", two, three, "b c")
    assert text_first(page).segments == page.segments
    captioned = Record("document", (one, "a", two, "b", three), "captioned")
    assert text_first(captioned).segments == ("a", one, "b", two, three)
    assert image_first(captioned).segments == captioned.segments


def test_what_is_no_document_of_texts_and_pictures_is_refused():
    box = Box((0, 0, 4, 4), "cat", (SIDE, SIDE))
    for segments in (("one", "two"), (box, "cat")):
        record = Record("document", segments, "odd")
        assert not interleaves(record)
        with pytest.raises(ValueError, match=r"'odd' is no pair of text and picture, nor a.*it has 2 segments"):
            image_first(record)


def test_clips_give_the_frames_a_run_reads():
    record = Record("video_pair", (_clip(32), "up"), "c", 1)
    uniform = with_frames(record, (8,), "uniform", random.Random(0))
    assert _shades(uniform.segments[0]) == [2, 6, 10, 14, 18, 22, 26, 30]
    assert uniform.segments[0].fps == 4.0
    drawn = [_shades(with_frames(record, (8,), "random", random.Random(i)).segments[0]) for i in range(4)]
    assert all(shades == sorted(set(shades)) and len(shades) == 8 for shades in drawn)
    assert len(set(map(tuple, drawn))) == 4
    lengths = {len(with_frames(record, (8, 12, 16), "uniform", random.Random(i)).segments[0]) for i in range(20)}
    assert lengths == {8, 12, 16}
    # What the clip cannot give is not asked of it.
    short = Record("video_pair", (_clip(12), "up"), "c", 1)
    assert {len(with_frames(short, (8, 12, 16), "uniform", random.Random(i)).segments[0]) for i in range(20)} == {8, 12}
    assert with_frames(pair(0), (8,), "random", random.Random(0)) is not None


def test_a_conversation_keeps_one_clip_in_both_its_forms():
    record = Record.conversation("chat", (("user", (_clip(9), "what?")), ("assistant", ("up",))), "c")
    cut = with_frames(record, (4,), "random", random.Random(1))
    assert cut.segments[0] is cut.turns[0][1][0]
    assert len(cut.segments[0]) == 4
    assert cut.segments[1:] == ("what?", "up")


@pytest.mark.parametrize("choice", ["uniform", "random"])
def test_what_is_sought_in_a_clip_is_cut_as_its_frames_are(choice):
    moments = tuple((Box((0, 0, number, 4), size=(SIDE, SIDE)),) for number in range(9))
    turns = (("user", (_clip(9), "what?")), ("assistant", ("up",)))
    record = Record.conversation("chat", turns, "c", sought=(Sought("what", moments=moments), None))
    whole = with_frames(record, (9,), choice, random.Random(1))
    assert whole.sought == record.sought
    cut = with_frames(record, (4,), choice, random.Random(1))
    kept = [moments.index(moment) for moment in cut.sought[0].moments]
    assert kept == [_shades(record.segments[0]).index(shade) for shade in _shades(cut.segments[0])]
    assert len(kept) == 4
    assert cut.sought[1] is None


def test_a_clip_shorter_than_the_frames_asked_for_is_refused():
    record = Record("video_pair", (_clip(5), "up"), "short", 1)
    with pytest.raises(ValueError, match=r"'short' .video_pair. has a clip of 5 frames, and this run reads 8 or 12"):
        with_frames(record, (12, 8), "uniform", random.Random(0))


def test_records_hold_boxes_and_refuse_turns_that_are_none():
    box = Box((0, 0, 4, 4), "cat", (SIDE, SIDE))
    assert Record("composition", (box, Image.new("RGB", (4, 4))), "b", 1).prompt == (box,)
    with pytest.raises(ValueError, match=r"A turn of record 'r' is .role, content.*got .'boss', tuple."):
        Record.conversation("chat", (("boss", ("hello",)),), "r")
    with pytest.raises(ValueError, match=r"A turn of record 'r'.*got .'user', str."):
        Record("chat", ("hello",), "r", turns=(("user", "hello"),))
