"""`Emu2Processor`: prompts of text, pictures, videos and boxes -> what the model takes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from PIL import Image
from transformers import AutoProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from emu2 import tokens
from emu2.configuration import Emu2Config
from emu2.processing import prompts as wordings
from emu2.processing.grounding import BOX_PICTURE_SIZE, Box, GroundedPhrase, parse_grounding
from emu2.processing.image import Emu2ImageProcessor, load_image
from emu2.processing.prompts import VIDEO_END, Part
from emu2.processing.tokenizer import Emu2Tokenizer, check_tokenizer, load_tokenizer
from emu2.processing.video import VIDEO_SUFFIXES, Video

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


@dataclass(frozen=True)
class Encoded:
    """One prompt or document, not padded.

    Attributes:
        input_ids: token ids.
        images: still pictures in reading order, RGB, one per run of `<image>` slots.
        frames: video frames in reading order, RGB, one per run of `[gIMG]` slots.
        spans: for each part, the (start, end) of its ids. A token made of characters of two texts belongs to the later.
    """

    input_ids: list[int]
    images: list[Image.Image]
    frames: list[Image.Image]
    spans: list[tuple[int, int]]


class Emu2Processor(ProcessorMixin):
    """Tokeniser and image processor of one Emu2 model.

    Args:
        image_processor: gives the picture size.
        tokenizer: with Emu2's special tokens; checked (`check_tokenizer`).
        num_query: slots of a still picture (64 in Emu2 and Emu2-Gen, 256 in Emu2-Chat); the model's `num_query`.
        num_video_query: slots of a video frame (64); the model's `num_video_query`.
        chat_template: a Jinja template; Emu2-Chat's where left out.

    Raises:
        ValueError: a tokeniser that is not Emu2's (says what is missing), or a slot count below 1.
    """

    def __init__(
        self,
        image_processor: Emu2ImageProcessor,
        tokenizer: Emu2Tokenizer,
        num_query: int = 64,
        num_video_query: int = 64,
        chat_template: str | None = None,
        **kwargs: Any,
    ):
        check_tokenizer(tokenizer)
        for name, value in (("num_query", num_query), ("num_video_query", num_video_query)):
            if value < 1:
                raise ValueError(f"{name} is the number of slots a picture takes, at least 1; got {value}.")
        self.num_query = num_query
        self.num_video_query = num_video_query
        template = wordings.default_chat_template() if chat_template is None else chat_template
        super().__init__(image_processor, tokenizer, chat_template=template, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> "Emu2Processor":
        """The processor saved in a folder, or one for a published folder (Emu2, Emu2-Chat, Emu2-Gen).

        Args:
            pretrained_model_name_or_path: the folder, or its name on the Hugging Face hub.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: the folder's tokeniser is missing, incomplete or wrong; says what is missing.
        """
        given = Path(pretrained_model_name_or_path)
        if not given.is_dir():
            given = _fetched(str(pretrained_model_name_or_path), **kwargs)
            pretrained_model_name_or_path = given
        folder = given / (kwargs.get("subfolder") or "")
        if (folder / "processor_config.json").is_file():
            if not (folder / "tokenizer.json").is_file():
                raise ValueError(f"{folder} holds a processor without its tokeniser: tokenizer.json is missing.")
            try:
                return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
            except ValueError as error:
                raise ValueError(f"The processor in {folder} cannot be loaded. {error}") from error
        return cls._from_published(folder)

    @classmethod
    def _from_published(cls, folder: Path) -> "Emu2Processor":
        """Emu2 and Emu2-Chat keep tokeniser and config.json side by side, Emu2-Gen in two sub-folders."""
        configs = [
            path for path in (folder / "config.json", folder / "multimodal_encoder/config.json") if path.is_file()
        ]
        config = json.loads(configs[0].read_text(encoding="utf-8")) if configs else {}
        # n_query in the published files, num_query in ours.
        num_query = config.get("n_query", config.get("num_query"))
        vision = config.get("vision_config") or {}
        if num_query is None or "image_size" not in vision:
            raise ValueError(
                f"{folder} holds no processor: expected processor_config.json (saved by Emu2Processor), or the "
                "config.json of an Emu2 model with n_query and vision_config.image_size beside LLaMA's tokeniser files."
            )
        has_tokenizer = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
        tokenizer = load_tokenizer(
            folder if has_tokenizer or not (folder / "tokenizer").is_dir() else folder / "tokenizer"
        )
        num_video_query = vision.get("v_query", config.get("num_video_query", 64))
        return cls(Emu2ImageProcessor(vision["image_size"]), tokenizer, num_query, num_video_query)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "video_pixel_values"]

    # One prompt ------------------------------------------------------------------------------------------------------

    def encode(
        self, parts: Part | Sequence[Part], add_bos: bool = True, add_eos: bool = False, draw: bool = False
    ) -> Encoded:
        """One prompt or document: ids, pictures, frames, and which ids each part became.

        Args:
            parts: text, pictures (PIL image, `Path`, bytes, array), `Video` and `Box` in reading order. Pictures
                between a part "[VIDEO]" and a part "[/VIDEO]" are frames. Neighbouring texts are one text. Where a
                `Box` occurs, `<grounding>` opens the prompt unless it does already.
            add_bos, add_eos: whether `<s>` comes first and `</s>` last (in no part's span).
            draw: append `[IMG]`, the start of a picture, for the model to draw it.

        Raises:
            ValueError: a part that is none of these, or a picture that cannot be read (says which part).
        """
        items = list(parts) if isinstance(parts, (list, tuple)) else [parts]
        pieces: list[str | list[int]] = []
        owners: list[int] = []
        images: list[Image.Image] = []
        frames: list[Image.Image] = []
        if any(isinstance(item, Box) for item in items) and not _opens_grounded(items):
            pieces.append(tokens.GROUNDING)
            owners.append(-1)
        in_video = False
        for index, item in enumerate(items):
            for part in wordings.box_parts(item) if isinstance(item, Box) else [item]:
                if isinstance(part, Path) and part.suffix.lower() in VIDEO_SUFFIXES:
                    part = Video.from_file(part)
                if isinstance(part, str):
                    in_video = {tokens.VIDEO: True, VIDEO_END: False}.get(part, in_video)
                    piece: str | list[int] = "" if part == VIDEO_END else part
                elif isinstance(part, Video):
                    piece = [self._id(tokens.VIDEO), *self._slots(tokens.FRAME_SLOT, self.num_video_query) * len(part)]
                    frames.extend(part)
                else:
                    (frames if in_video else images).append(_picture(part, index, self.image_processor.max_pixels))
                    slot = (
                        (tokens.FRAME_SLOT, self.num_video_query) if in_video else (tokens.IMAGE_SLOT, self.num_query)
                    )
                    piece = self._slots(*slot)
                pieces.append(piece)
                owners.append(index)
        if draw:
            pieces.append([self._id(tokens.IMG)])
            owners.append(len(items))
        ids, piece_spans = self.tokenizer.encode_parts(pieces)
        shift = int(add_bos)
        spans = [_union(piece_spans, owners, index, shift) for index in range(len(items))]
        ids = [self.tokenizer.bos_token_id] * add_bos + ids + [self.tokenizer.eos_token_id] * add_eos
        return Encoded(ids, images, frames, spans)

    def _id(self, token: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(token)  # there: __init__ checked

    def _slots(self, slot: str, count: int) -> list[int]:
        return [self._id(tokens.IMG), *[self._id(slot)] * count, self._id(tokens.IMG_END)]

    # Batches ---------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        prompts: Part | Sequence[Part] | Sequence[Sequence[Part]] = (),
        padding: bool = True,
        return_tensors: str | None = "pt",
        draw: bool = False,
        max_length: int | None = None,
        add_eos: bool = False,
        **unknown: Any,
    ) -> BatchFeature:
        """Model inputs for one prompt or a batch.

        Args:
            prompts: one prompt (a part or a list of parts, see `encode`) or a list of prompts, each a list of parts. A
                list of strings is one prompt.
            padding: pad on the left to the longest row; needed for tensors of rows of different length.
            return_tensors: "pt", "np", or None for lists.
            draw: append `[IMG]` to every prompt; with it an empty prompt is allowed (the null condition of guidance).
            max_length: refuse longer prompts; give the model's context length.
            add_eos: append `</s>` to every row.

        Returns:
            `input_ids` and `attention_mask` int64 [B, T]; where there are pictures `pixel_values` float32 [N, 3, S, S]
            and `video_pixel_values` float32 [F, 3, S, S], in reading order over the batch.

        Raises:
            ValueError: an empty prompt, one longer than `max_length`, or a part that cannot be read (says which).
            TypeError: an argument that other processors take, such as `images`.
        """
        if unknown:
            raise TypeError(
                f"Emu2Processor takes no {', '.join(unknown)}: texts and pictures are one list in reading order, such "
                'as processor([picture, "What is this?"]).'
            )
        batch = _as_batch(prompts)
        rows = []
        for index, prompt in enumerate(batch):
            where = f"prompts[{index}]" if len(batch) > 1 else "The prompt"
            try:
                row = self.encode(prompt, add_eos=add_eos, draw=draw)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error
            if len(row.input_ids) == 1 + add_eos:
                raise ValueError(f"{where} is empty: give it text or a picture (only with draw=True may it be empty).")
            self._check_length(row, max_length, where)
            rows.append(row)
        return self.collate(rows, padding=padding, return_tensors=return_tensors)

    def _check_length(self, row: Encoded, max_length: int | None, where: str) -> None:
        if max_length is not None and len(row.input_ids) > max_length:
            slots = len(row.images) * (self.num_query + 2) + len(row.frames) * (self.num_video_query + 2)
            raise ValueError(
                f"{where} is {len(row.input_ids)} tokens long, the limit is {max_length}: {len(row.images)} pictures "
                f"and {len(row.frames)} video frames take {slots} of them. Give fewer pictures or less text."
            )

    def collate(self, rows: Sequence[Encoded], padding: bool = True, return_tensors: str | None = "pt") -> BatchFeature:
        """Encoded prompts as one batch; see `__call__`."""
        lengths = {len(row.input_ids) for row in rows}
        longest = max(lengths) if padding else 0
        if not padding and return_tensors is not None and len(lengths) > 1:
            raise ValueError(
                f"Rows of lengths {sorted(lengths)} make no tensor: pass padding=True or return_tensors=None."
            )
        pads = [max(longest - len(row.input_ids), 0) for row in rows]
        pad_id = self._id(tokens.PAD)
        data: dict[str, Any] = {
            "input_ids": [[pad_id] * pad + row.input_ids for pad, row in zip(pads, rows, strict=True)],
            "attention_mask": [[0] * pad + [1] * len(row.input_ids) for pad, row in zip(pads, rows, strict=True)],
        }
        if return_tensors is not None:
            data = {key: np.asarray(value, dtype=np.int64) for key, value in data.items()}
        images = [image for row in rows for image in row.images]
        frames = [frame for row in rows for frame in row.frames]
        if images:
            data["pixel_values"] = self.image_processor(images, return_tensors="np")["pixel_values"]
        if frames:
            data["video_pixel_values"] = self.image_processor(frames, return_tensors="np")["pixel_values"]
        return BatchFeature(data, tensor_type=return_tensors)

    # Wordings --------------------------------------------------------------------------------------------------------

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        tokenize: bool = True,
        grounding: bool = False,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        style: str = "detailed",
        wording: str = "native",
        padding: bool = True,
        return_tensors: str | None = "pt",
        return_dict: bool = True,
        max_length: int | None = None,
        **variables: Any,
    ) -> Any:
        """Model inputs of a conversation (or a list of them) in Emu2-Chat's wording; see `prompts.chat_parts`.

        With `tokenize=False` the prompt string, `[<IMG_PLH>]` standing for a picture and `[<VID_PLH>]` for a frame.
        With `return_dict=False` the input ids alone.
        """
        batched = bool(conversation) and not isinstance(conversation[0], Mapping)
        conversations = list(conversation) if batched else [conversation]
        batch = [
            [
                part.content
                for part in wordings.chat_parts(
                    messages,  # type: ignore[arg-type]
                    template=chat_template or self.chat_template,  # type: ignore[arg-type]
                    grounding=grounding,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=continue_final_message,
                    style=style,
                    wording=wording,
                    **variables,
                )
            ]
            for messages in conversations
        ]
        if not tokenize:
            prompts = [wordings.prompt_string(parts) for parts in batch]
            return prompts if batched else prompts[0]
        inputs = self(batch, padding=padding, return_tensors=return_tensors, max_length=max_length)
        return inputs if return_dict else inputs["input_ids"]

    def few_shot(
        self,
        demonstrations: Sequence[Sequence[Any]],
        query: Any,
        *,
        wording: str = "paper",
        tokenize: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Model inputs of a few-shot prompt, see `prompts.few_shot_parts`; with `tokenize=False` its list of parts.

        Further arguments go to `__call__`.
        """
        parts = wordings.few_shot_parts(demonstrations, query, wording=wording)
        return self([parts], **kwargs) if tokenize else parts

    def parse_grounding(
        self, text: str, size: tuple[int, int] | Image.Image = (BOX_PICTURE_SIZE, BOX_PICTURE_SIZE)
    ) -> list[GroundedPhrase]:
        """The boxes in an answer decoded with special tokens kept, in pixels of the picture asked about.

        `size` is that picture, or its (width, height); 448x448, like a `Box`, where left out.
        """
        return parse_grounding(text, size)


def _fetched(name: str, **kwargs: Any) -> Path:
    """The local copy of the small files of a repository on the hub, fetched where it is not there yet."""
    path = Path(name)
    if path.is_file() or path.is_absolute() or len(path.parts) != 2 or name.startswith((".", "~")):
        raise FileNotFoundError(f"There is no folder {name}, and a name on the Hugging Face hub is OWNER/NAME.")
    options = {key: kwargs[key] for key in _HUB_ARGUMENTS if kwargs.get(key) is not None}
    patterns = ["*.jinja", *(f"*{stem}*" for stem in ("config.json", "tokenizer", "added_tokens", "special_tokens"))]
    return Path(snapshot_download(name, allow_patterns=patterns, **options))


def _as_batch(prompts: Any) -> list[Any]:
    """Prompts as a list of lists of parts."""
    if not isinstance(prompts, (list, tuple)):
        return [[prompts]]
    lists = [isinstance(prompt, (list, tuple)) for prompt in prompts]
    if prompts and all(lists):
        return [list(prompt) for prompt in prompts]
    if any(lists):
        index = lists.index(False)
        raise ValueError(
            f"A batch is a list of lists of parts, but prompts[{index}] is a {type(prompts[index]).__name__} beside "
            "lists. Put every prompt into a list of its own."
        )
    return [list(prompts)]


def _opens_grounded(items: list[Any]) -> bool:
    return isinstance(items[0], str) and items[0].lstrip().startswith(tokens.GROUNDING)


def _picture(source: Any, index: int, max_pixels: int) -> Image.Image:
    if isinstance(source, (list, tuple, dict)) or source is None:
        raise ValueError(
            f"part [{index}] is a {type(source).__name__}: a part is text, a picture (PIL image, Path, bytes, array), "
            "a Video or a Box."
        )
    try:
        return load_image(source, max_pixels=max_pixels)
    except ValueError as error:
        raise ValueError(f"part [{index}]: {error}") from error


def _union(spans: list[tuple[int, int]], owners: list[int], index: int, shift: int) -> tuple[int, int]:
    """The range from the first to the last piece of part `index`, moved by `shift`."""
    own = [span for span, owner in zip(spans, owners, strict=True) if owner == index]
    return (own[0][0] + shift, own[-1][1] + shift) if own else (shift, shift)


AutoProcessor.register(Emu2Config, Emu2Processor, exist_ok=True)
