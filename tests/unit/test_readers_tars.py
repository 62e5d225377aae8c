"""Captioned pictures and clips in tars: random access, damage, indices, URLs, fingerprints."""

import io
import pickle
import tarfile

import fsspec
import numpy as np
import pytest
from helpers_readers import COLOURS, encoded, pair_members, tar_bytes, video, write
from PIL import Image

from emu2.data.loader import BAD_SAMPLE_ERRORS
from emu2.data.readers import FORMATS, SourceConfig, open_source
from emu2.data.readers.files import expand_braces
from emu2.data.sources import BadSampleError, Source


@pytest.fixture
def shards(tmp_path):
    """Two shards of two pairs."""
    for number in range(2):
        colours = COLOURS[2 * number : 2 * number + 2]
        write(tmp_path / f"shards/{number:05d}.tar", tar_bytes(pair_members(colours, 2 * number)))
    return tmp_path / "shards"


def opened(path, tmp_path, kind="pair", **settings):
    form = settings.pop("format", "webdataset")
    return open_source({"format": form, "path": str(path), "cache": str(tmp_path / "cache"), **settings}, kind)


def test_pairs_are_read_in_any_order(shards, tmp_path):
    source = opened(shards / "{00000..00001}.tar", tmp_path)
    assert isinstance(source, Source)
    assert source.size == len(source) == 4
    for index in (3, 0, 2, 1):
        record = source[index]
        picture, caption = record.segments
        assert record.kind == "pair"
        assert record.answer_from == 1
        assert caption == f"a {COLOURS[index]} picture"
        assert picture.getpixel((0, 0)) == Image.new("RGB", (1, 1), COLOURS[index]).getpixel((0, 0))
        assert record.key == f"{index // 2:05d}/{index:09d}"
        assert record.truth["url"] == f"https://example.org/{COLOURS[index]}.jpg"
    with pytest.raises(IndexError, match="records 0 to 3; asked for 4"):
        source[4]


@pytest.mark.parametrize("path", ["{root}", "{root}/*.tar", "{root}/{{00000,00001}}.tar", "file://{root}"])
def test_shards_are_found_by_folder_glob_and_braces(shards, tmp_path, path):
    assert opened(path.format(root=shards), tmp_path).size == 4


def test_hidden_folders_are_left_out_and_links_are_followed_once(shards, tmp_path):
    write(shards / ".backup/00000.tar", (shards / "00000.tar").read_bytes())
    (shards / "round").symlink_to(shards)
    other = tmp_path / "other"
    other.mkdir()
    (other / "linked").symlink_to(shards)
    assert opened(shards, tmp_path).size == 4
    assert opened(other, tmp_path).size == 4


def test_braces_expand_like_a_shell():
    assert expand_braces("a{08..10}{x,y}") == ["a08x", "a08y", "a09x", "a09y", "a10x", "a10y"]
    assert expand_braces("{9..11}") == ["9", "10", "11"]
    assert expand_braces("plain") == ["plain"]
    with pytest.raises(ValueError, match="runs backwards"):
        expand_braces("{3..1}")


def test_text_to_image_and_chat_are_made_of_the_same_files(shards, tmp_path):
    drawn = opened(shards, tmp_path, "text_to_image")[0]
    assert drawn.segments[0] == "a red picture"
    assert drawn.answer_from == 1
    chat = opened(shards, tmp_path, "chat")[0]
    assert [role for role, _ in chat.turns] == ["system", "user", "assistant"]
    assert chat.turns[2] == ("assistant", ("a red picture",))


def test_caption_may_be_another_field(tmp_path):
    members = [("0.jpg", encoded(form="JPEG")), ("0.json", {"caption": "alt text", "long": "a long caption"})]
    write(tmp_path / "a.tar", tar_bytes(members))
    assert opened(tmp_path / "a.tar", tmp_path)[0].segments[1] == "alt text"
    assert opened(tmp_path / "a.tar", tmp_path, caption="long")[0].segments[1] == "a long caption"


def test_urls_are_read_like_files():
    with fsspec.open("memory://bucket/00000.tar", "wb") as file:
        file.write(tar_bytes(pair_members(COLOURS)))
    for path in ("memory://bucket/00000.tar", "memory://bucket/*.tar", "memory://bucket"):
        source = open_source({"format": "webdataset", "path": path, "cache": "/nonexistent/cache"}, "pair")
        assert source.size == 4
        assert source[3].segments[1] == "a white picture"


def test_index_is_kept_and_renewed_when_the_tar_changes(shards, tmp_path, monkeypatch):
    opened(shards, tmp_path)
    monkeypatch.setattr("emu2.data.readers.tars.index_samples", lambda path: pytest.fail("walked through again"))
    assert opened(shards, tmp_path).size == 4
    monkeypatch.undo()
    write(shards / "00001.tar", tar_bytes(pair_members(["blue"], 2)))
    assert opened(shards, tmp_path).size == 3


def test_sources_travel_to_worker_processes(shards, tmp_path):
    source = opened(shards, tmp_path)
    again = pickle.loads(pickle.dumps(source))
    assert again[2].segments[1] == source[2].segments[1]


def test_fingerprint_is_of_the_shard_list(shards, tmp_path):
    prints = {opened(shards, tmp_path).fingerprint()}
    copy = tmp_path / "elsewhere" / "copy"
    copy.mkdir(parents=True)
    for shard in shards.iterdir():
        (copy / shard.name).write_bytes(shard.read_bytes())
    assert {opened(copy, tmp_path).fingerprint()} == prints
    prints.add(opened(shards / "00000.tar", tmp_path).fingerprint())
    prints.add(opened(shards, tmp_path, limit=3).fingerprint())
    prints.add(opened(shards, tmp_path, "text_to_image").fingerprint())
    write(shards / "00001.tar", tar_bytes(pair_members(COLOURS[1:], 2)))
    prints.add(opened(shards, tmp_path).fingerprint())
    assert len(prints) == 5


def test_tars_of_other_programs(tmp_path):
    """Long and foreign names, folders, hidden files, old and new header forms, two tars in one file."""
    names = ["./deep/" + "x" * 150, "./Bücher/ä", "plain"]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as tar:
            folder = tarfile.TarInfo("./deep")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for name in names:
                for hidden, ending, data in (("", "png", encoded()), ("._", "txt", b"?"), ("", "txt", name.encode())):
                    head, _, tail = name.rpartition("/")
                    info = tarfile.TarInfo(f"{head}/{hidden}{tail}.{ending}" if head else f"{hidden}{tail}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        path.write_bytes(path.read_bytes() + tar_bytes(pair_members(["blue"])))
        source = opened(path, tmp_path)
        assert [source[index].segments[1] for index in range(source.size)] == [*names, "a blue picture"]


def test_clips(tmp_path):
    members = [("0.mp4", video()), ("0.txt", "it grows brighter"), ("1.mp4", video(5)), ("1.txt", "so does this")]
    write(tmp_path / "0.tar", tar_bytes(members))
    source = opened(tmp_path / "0.tar", tmp_path, "video_pair", format="video2dataset", num_frames=8)
    clip, caption = source[0].segments
    assert caption == "it grows brighter"
    assert len(clip) == 8
    brightness = [np.asarray(frame).mean() for frame in clip]
    assert brightness == sorted(brightness)
    # A shorter clip gives the frames it has; what needs more refuses it.
    assert len(source[1].segments[0]) == 5


# Bad samples ----------------------------------------------------------------------------------------------------------


def cause(source, index):
    with pytest.raises(BAD_SAMPLE_ERRORS) as caught:
        source[index]
    assert isinstance(caught.value, BadSampleError)
    assert str(caught.value).startswith(caught.value.cause)
    assert pickle.loads(pickle.dumps(caught.value)).cause == caught.value.cause
    return caught.value.cause


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("0.jpg", encoded(size=(300, 300), form="JPEG")[:900]), ("0.txt", "x")], "truncated or broken picture"),
        ([("0.png", encoded(size=(300, 300))[:200]), ("0.txt", "x")], "truncated or broken picture"),
        ([("0.jpg", b"<html>404</html>"), ("0.txt", "x")], "not a picture"),
        ([("0.jpg", b""), ("0.txt", "x")], "empty picture"),
        ([("0.gif", b"GIF89a" + bytes(7) + b";"), ("0.txt", "x")], "zero-size picture"),
        ([("0.png", encoded())], "missing caption"),
        ([("0.png", encoded()), ("0.txt", "  \n")], "missing caption"),
        ([("0.png", encoded()), ("0.json", {"caption": None})], "missing caption"),
        ([("0.png", encoded()), ("0.json", "{oops")], "metadata is not JSON"),
        ([("0.png", encoded()), ("0.txt", b"caf\xe9")], "text is not UTF-8"),
        ([("0.txt", "x")], "missing picture"),
    ],
)
def test_bad_pairs_say_what_is_wrong(tmp_path, members, expected):
    good = pair_members(["green"], 9)
    write(tmp_path / "0.tar", tar_bytes([*members, *good]))
    source = opened(tmp_path / "0.tar", tmp_path)
    assert cause(source, 0) == expected
    assert source[1].segments[1] == "a green picture"


def test_size_limits(shards, tmp_path):
    assert cause(opened(shards, tmp_path, min_side=13), 0) == "picture too small"
    assert cause(opened(shards, tmp_path, max_pixels=100), 0) == "picture too large"


def test_broken_clips(tmp_path):
    members = [("0.mp4", video()[:300]), ("0.txt", "x"), ("1.mp4", b"no video"), ("1.txt", "x"), ("2.txt", "x")]
    write(tmp_path / "0.tar", tar_bytes(members))
    source = opened(tmp_path / "0.tar", tmp_path, "video_pair", format="video2dataset")
    assert [cause(source, index) for index in range(3)] == ["unreadable video", "unreadable video", "missing clip"]


def test_truncated_tar_loses_its_last_sample_only(tmp_path):
    data = tar_bytes(pair_members(COLOURS))
    end = data.index(b"000000003.txt") - 512
    write(tmp_path / "0.tar", data[:end])
    source = opened(tmp_path / "0.tar", tmp_path)
    assert source.size == 4
    assert source[2].segments[1] == "a blue picture"
    assert cause(source, 3) in ("truncated tar member", "corrupt tar member", "missing caption")


def test_damaged_header_is_one_bad_sample_and_the_rest_is_read(tmp_path):
    data = bytearray(tar_bytes(pair_members(COLOURS)))
    place = data.index(b"000000001.png")
    data[place : place + 512] = b"\xff" * 512
    write(tmp_path / "0.tar", bytes(data))
    source = opened(tmp_path / "0.tar", tmp_path)
    causes, read = [], []
    for index in range(source.size):
        try:
            read.append(source[index].segments[1])
        except BadSampleError as error:
            causes.append(error.cause)
    assert read == ["a red picture", "a blue picture", "a white picture"]
    assert "corrupt tar member" in causes


# Refused at opening ---------------------------------------------------------------------------------------------------


def test_formats_are_described():
    assert all(form.kinds and form.summary for form in FORMATS.values())


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ({"format": "lmdb", "path": "x"}, "pair", "There is no format 'lmdb'; there are webdataset, "),
        ({"format": "webdataset"}, "pair", "A source needs 'path'"),
        ({"path": "x.tar"}, "pair", "A source needs 'format'"),
        ({"format": "webdataset", "path": "x", "shuffle": 1}, "pair", "has no setting 'shuffle'; it has format, path"),
        ({"format": "webdataset", "path": "x"}, "document", "not 'document', which these give: mmc4, obelics"),
        ({"format": "webdataset", "path": "nowhere/*.tar"}, "pair", r"No data found: nowhere/\*.tar holds no tars"),
        ({"format": "webdataset", "path": "nowhere"}, "pair", "No data found: there is no file or folder nowhere"),
        ({"format": "webdataset", "path": "nope://bucket/*.tar"}, "pair", "cannot be opened: .*nope"),
        ({"format": "webdataset", "path": "x", "limit": 0}, "pair", "limit is a whole number of 1 or more, or null"),
        ({"format": "webdataset", "path": "x", "num_frames": 0}, "pair", "num_frames is a whole number of 1 or more"),
        ({"format": "webdataset", "path": "x", "style": "terse"}, "pair", "style is 'concise', 'detailed' or null"),
        ({"format": "vqav2", "path": "x", "hint": "no"}, "chat", "hint is true or false; got 'no'"),
        ({"format": "vqav2", "path": "x", "annotations": 3}, "chat", "annotations is a text or null; got 3"),
        ({"format": "text", "path": "x", "unit": "word"}, "text", "unit is 'file' or 'line'; got 'word'"),
    ],
)
def test_what_cannot_be_opened_says_why(spec, kind, message):
    with pytest.raises(ValueError, match=message):
        open_source(spec, kind)


def test_shards_of_another_kind_are_told(shards, tmp_path):
    with pytest.raises(ValueError, match="hold no clips; they look like 'webdataset'"):
        opened(shards, tmp_path, "video_pair", format="video2dataset")
    write(tmp_path / "v.tar", tar_bytes([("0.mp4", video(2)), ("0.txt", "x")]))
    with pytest.raises(ValueError, match="hold no pictures; they look like 'video2dataset'"):
        opened(tmp_path / "v.tar", tmp_path)
    write(tmp_path / "e.tar", tar_bytes([("0.edited_image.png", encoded()), ("0.txt", "x")]))
    with pytest.raises(ValueError, match="hold no pictures; they look like 'instructpix2pix'"):
        opened(tmp_path / "e.tar", tmp_path)
    with pytest.raises(ValueError, match=r"hold no edits: .*; the first samples have json, png, txt"):
        opened(shards, tmp_path, "edit", format="instructpix2pix")


def test_remote_files_that_are_not_there_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"memory://nowhere/0.tar cannot be read"):
        opened("memory://nowhere/0.tar", tmp_path)
    with pytest.raises(ValueError, match=r"No data found: there is no file or folder memory://nowhere"):
        opened("memory://nowhere", tmp_path)
    with pytest.raises(ValueError, match=r"No data found: memory://nowhere/\*.tar holds no tars"):
        opened("memory://nowhere/*.tar", tmp_path)


def test_errors_of_remote_libraries_are_bad_samples(tmp_path, monkeypatch):
    class CloudError(Exception):
        pass

    def fail(*args, **kwargs):
        raise CloudError("try again later")

    with fsspec.open("memory://cloud/0.tar", "wb") as file:
        file.write(tar_bytes(pair_members(COLOURS)))
    source = opened("memory://cloud/0.tar", tmp_path)
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", fail)
    with pytest.raises(BAD_SAMPLE_ERRORS, match=r"memory://cloud/0.tar cannot be read: CloudError: try again later"):
        source[0]


def test_files_that_are_no_tars_are_told(tmp_path):
    write(tmp_path / "a.tar", b"not a tar at all" * 100)
    with pytest.raises(ValueError, match=r"a\.tar is not a tar"):
        opened(tmp_path / "a.tar", tmp_path)
    write(tmp_path / "b.tar", b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match=r"b\.tar is compressed \(gzip\).*unpack it first"):
        opened(tmp_path / "b.tar", tmp_path)
    write(tmp_path / "c.tar", tar_bytes([("README", "no ending")]))
    with pytest.raises(ValueError, match="hold no samples"):
        opened(tmp_path / "c.tar", tmp_path)


def test_config_takes_one_path_or_several():
    assert SourceConfig("webdataset", "a.tar").path == ("a.tar",)
    assert SourceConfig("webdataset", ["a.tar", "b.tar"]).path == ("a.tar", "b.tar")
