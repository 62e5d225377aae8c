"""What to say where there is nothing to load: light, so that a mistyped name is answered at once."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

#: The name that `emu2.load()` takes where none is given.
DEFAULT_NAME = "nano"
#: Name of a model that ships with the package -> its variant (`emu2.model.variants`), and the folder of all of them.
SHIPPED = {"nano": "base", "nano-chat": "chat", "nano-gen": "gen"}
SHIPPED_FOLDER = Path(__file__).parents[1] / "weights" / "nano"
#: What `emu2.recipes.card` leaves beside a model's variants.
CARD = "card.json"
#: The one to take for drawing and filming.
_DRAWER = "nano-gen"
#: `emu2.presets.names()`, repeated because that module needs transformers.
SIZE_NAMES = ("37b", "37b-chat", "37b-gen")


def shipped_folder(name: str) -> Path | None:
    """Where the model of this name lies in the package; None where the name is no such model's, or it is not there."""
    if name not in SHIPPED or not (SHIPPED_FOLDER / "variants.json").is_file():
        return None
    return SHIPPED_FOLDER / SHIPPED[name]


def fitting(name: str, variant: str) -> str:
    """What to load where a model's own name is given for what one of its variants is made for: chat for chatting.

    "nano" and a folder of several variants lead to that variant; every other name, "nano-gen" and a variant's own
    folder among them, stays as it is.
    """
    folder = Path(name).expanduser()
    if name == DEFAULT_NAME and not folder.exists():
        folder = SHIPPED_FOLDER
    return str(folder / variant) if (folder / "variants.json").is_file() and (folder / variant).is_dir() else name


def variant_draws(name: str) -> bool | None:
    """Whether the variant under a name or in a folder (`emu2.model.variants`) has decoders; None where it is none."""
    root, variant = _among_variants(name)
    if root is None:
        return None
    listed = json.loads((root / "variants.json").read_text(encoding="utf-8"))["variants"]
    return bool(listed.get(variant or next(iter(listed)), {}).get("draws"))


def model_card(name: str) -> dict[str, Any]:
    """What `card.json` beside the variants tells of the model under a name or in a folder; empty where there is none.

    Raises:
        ValueError: there is one, and it cannot be read.
    """
    root, variant = _among_variants(name)
    # A weight file beside the variants is none of them.
    if root is None or not (root / (variant or "")).is_dir() or not (root / CARD).is_file():
        return {}
    try:
        return dict(json.loads((root / CARD).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{root / CARD} is no model card: {error}. Remove it, or put the one it was back.") from error


def _among_variants(name: str) -> tuple[Path | None, str | None]:
    """The folder of variants that a name or folder belongs to, and which of them it is: None where it is all of them.

    (None, None) where it belongs to no such folder.
    """
    folder = Path(name).expanduser()
    folder = folder if folder.exists() else shipped_folder(name) or folder
    for root, variant in ((folder, None), (folder.parent, folder.name)):
        if (root / "variants.json").is_file():
            return root, variant
    return None, None


def explain_missing(name: str) -> str:
    """Why there is nothing to load under this name, and what to do."""
    how = (
        "Give a model's folder: one you trained (`make train-demo` makes a small one, train-demo/model), or published "
        "weights."
    )
    if name in SHIPPED:
        return f"The small model {name!r} does not ship with this version of emu2. {how}"
    if name in SIZE_NAMES:
        return f"{name!r} is the name of a size, not of weights. {how}"
    near = _near_names(name)
    hint = f"Did you mean {' or '.join(near)}?" if near else ""
    if name.count("/") == 1 and not name.startswith((".", "~", "/")) and not Path(name).parent.exists():
        hint = (
            f"If it is a name on the Hugging Face hub, fetch it first: hf download {name} --local-dir FOLDER, and "
            "give that folder."
        )
    return f"There is no model {name!r}: no such file or folder. {hint or how}"


def explain_no_image_decoder(name: str) -> str:
    """Why a model cannot draw, and what can."""
    instead = "a folder that Emu2ImagePipeline saved (it holds model_index.json), such as Emu2-Gen's"
    return (
        f"{name} has no image decoder, so it cannot draw; it can complete, chat and embed. "
        f"Load {_DRAWER if name in SHIPPED else instead}."
    )


def explain_no_video_decoder(name: str) -> str:
    """Why a model cannot film, and what can."""
    instead = "a folder that Emu2VideoPipeline saved; the published weights hold no video decoder"
    return f"{name} has no video decoder, so it cannot film. Load {_DRAWER if name in SHIPPED else instead}."


def _near_names(name: str) -> list[str]:
    """Known names and neighbouring folders that look like it."""
    path = Path(name).expanduser()
    near = get_close_matches(name.lower(), [*SHIPPED, *SIZE_NAMES], n=1, cutoff=0.7)
    if path.parent.is_dir():
        siblings = {entry.name: str(entry) for entry in path.parent.iterdir()}
        near += [siblings[match] for match in get_close_matches(path.name, siblings, n=2, cutoff=0.7)]
    return [repr(one) for one in dict.fromkeys(near)]
