"""Special tokens in their published order, and the grammar of image and video slots.

An image takes part in a sequence as a run of *slots*, placeholder tokens whose embeddings are replaced by visual
ones. A still image is written `[IMG]` + n x `<image>` + `[/IMG]`; a video frame is written `[IMG]` + n x `[gIMG]` +
`[/IMG]` (the published models borrow `[gIMG]` as the frame token), with one `[VIDEO]` before the first frame.

Source: published file Emu2/emu/lm.py (order of the tokens) and the published checkpoints' vocabulary sizes.
"""

BOS = "<s>"
EOS = "</s>"
UNK = "<unk>"

PAD = "[PAD]"
IMG = "[IMG]"
IMG_END = "[/IMG]"
IMAGE_SLOT = "<image>"
FRAME_SLOT = "[gIMG]"
FRAME_SLOT_END = "[/gIMG]"
END_OF_CHUNK = "[EOC]"
VIDEO = "[VIDEO]"
GROUNDING = "<grounding>"
PHRASE = "<phrase>"
PHRASE_END = "</phrase>"
OBJECT = "<object>"
OBJECT_END = "</object>"
OBJECT_DELIMITER = "</delimiter_of_multi_objects/>"
REFERRING = "<REC>"
USER = "[USER]"
ASSISTANT = "[ASSISTANT]"

#: Positions a box corner can take in the vocabulary. 257 tokens are published, 0 to 224 are used (published README).
NUM_PATCH_INDICES = 257
#: A box corner is written as a row or column index from 0 to this number, whatever the picture's size.
GROUNDING_RESOLUTION = 224

#: Size of the LLaMA vocabulary, hence the id of the first added token.
LLAMA_VOCAB_SIZE = 32000


def patch_index(position: int) -> str:
    """The token of one box coordinate, `<patch_index_0000>` to `<patch_index_0256>`."""
    if not 0 <= position < NUM_PATCH_INDICES:
        raise ValueError(f"A patch index lies between 0 and {NUM_PATCH_INDICES - 1}; got {position}.")
    return f"<patch_index_{position:04d}>"


#: Tokens every Emu2 tokeniser carries after its text vocabulary, in this order.
BASE_SPECIAL_TOKENS: tuple[str, ...] = (
    PAD,
    IMG,
    IMG_END,
    IMAGE_SLOT,
    FRAME_SLOT,
    FRAME_SLOT_END,
    END_OF_CHUNK,
    VIDEO,
    GROUNDING,
    PHRASE,
    PHRASE_END,
    OBJECT,
    OBJECT_END,
    OBJECT_DELIMITER,
    REFERRING,
    *(patch_index(i) for i in range(NUM_PATCH_INDICES)),
)
#: What Emu2-Chat adds after those.
CHAT_SPECIAL_TOKENS: tuple[str, ...] = (USER, ASSISTANT)

#: Vocabulary sizes of the published checkpoints: 32272 (base, Gen) and 32274 (Chat).
BASE_VOCAB_SIZE = LLAMA_VOCAB_SIZE + len(BASE_SPECIAL_TOKENS)
CHAT_VOCAB_SIZE = BASE_VOCAB_SIZE + len(CHAT_SPECIAL_TOKENS)

#: Tokens that stand for pictures. Only the processor may write them; in text that a person typed they are escaped.
SLOT_TOKENS: tuple[str, ...] = (IMG, IMG_END, IMAGE_SLOT, FRAME_SLOT, FRAME_SLOT_END)


def special_tokens(*, chat: bool = False) -> tuple[str, ...]:
    """All added tokens in vocabulary order; with `chat`, the two of Emu2-Chat at the end."""
    return BASE_SPECIAL_TOKENS + CHAT_SPECIAL_TOKENS if chat else BASE_SPECIAL_TOKENS


def image_slots(num_query: int) -> str:
    """Text of one still image's slots: `[IMG]` + num_query x `<image>` + `[/IMG]`."""
    return IMG + IMAGE_SLOT * num_query + IMG_END


def frame_slots(num_query: int) -> str:
    """Text of one video frame's slots: `[IMG]` + num_query x `[gIMG]` + `[/IMG]`."""
    return IMG + FRAME_SLOT * num_query + IMG_END
