"""The code blocks of docs/decoder.md run, in order, on tiny parts."""

import re
from functools import partial
from pathlib import Path

import pytest
from helpers_decoder import euler, picture, quiet, tiny_encoder, tiny_unet, tiny_vae, tiny_video_unet

from emu2 import Emu2ImagePipeline, Emu2VideoPipeline

PAGE = Path(__file__).parents[2] / "docs" / "decoder.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


class Hasty(Emu2ImagePipeline):
    """Two steps where the page says nothing."""

    def __call__(self, *args, num_inference_steps=2, **kwargs):
        return super().__call__(*args, num_inference_steps=num_inference_steps, **kwargs)


def test_the_code_on_the_page_runs(tmp_path, capsys):
    encoder = tiny_encoder()
    film = quiet(Emu2VideoPipeline(*encoder, tiny_video_unet(), tiny_vae(), euler()))
    names = {
        "pipe": quiet(Hasty(*encoder, tiny_unet(), tiny_vae(), euler())),
        "film": partial(film, num_inference_steps=2),
        "Emu2ImagePipeline": Hasty,
        "cat": picture(0),
        "dog": picture(1),
        "folder": tmp_path,
    }
    run = [block for block in BLOCKS if not block.startswith("# not run")]
    assert len(run) >= 6
    for block in run:
        try:
            exec(compile(block, str(PAGE), "exec"), names)
        except Exception as error:
            pytest.fail(f"{error!r} in\n{block}")
    assert len(names["pictures"]) == 2
    assert "drawn anew" in capsys.readouterr().out
    assert (tmp_path / "cat.mp4").stat().st_size > 0
    assert (tmp_path / "cat.gif").stat().st_size > 0
