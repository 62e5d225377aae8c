"""Parameter names: the published ones <-> ours, in both directions and without loss.

Three naming schemes hold one and the same model:

| scheme   | where it is found                     | tower           | language model            | bridge              |
|----------|---------------------------------------|-----------------|---------------------------|---------------------|
| `ours`   | folders that this package saves       | `model.visual.` | `model.language_model.`   | `model.project_up.` |
| `native` | files of the published native code    | `visual.`       | `decoder.lm.model.`       | `project_up.`       |
| `hf`     | the published Hugging Face folders    | `model.visual.` | `model.decoder.lm.model.` | `project_up.`       |

Besides the prefixes they differ in two points:

* The attention of the tower has a bias on queries and values only. `native` and `ours` keep them as `attn.q_bias` and
  `attn.v_bias` `[D]`; `hf` keeps one `attn.qkv.bias` `[3D]` whose middle third, the key bias, is zero. On reading, the
  key bias is dropped whatever it holds: it adds the same number to every score of a query, which the softmax cancels.
* Files written by transformers 4.31 hold a rotary table `self_attn.rotary_emb.inv_freq` `[head_dim / 2]` per layer.
  Newer code computes it; it is ignored on reading and written again, in float32, so that the published code still
  loads our files strictly.

In an image-generation file (`gen`) the names of the multimodal encoder carry the prefix `multimodal_encoder.`, beside
`unet.`, `vae.` and `safety_checker.`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Scheme = Literal["ours", "native", "hf"]
#: What of a source tensor one of our tensors takes: all of it, or a third of a fused bias.
Part = Literal["whole", "query", "value"]

#: (prefix in the scheme, prefix in ours), components in their published order.
_PREFIXES: dict[str, tuple[tuple[str, str], ...]] = {
    "ours": (
        ("model.visual.", "model.visual."),
        ("model.language_model.", "model.language_model."),
        ("lm_head.", "lm_head."),
        ("model.project_up.", "model.project_up."),
        ("model.project_down.", "model.project_down."),
    ),
    "native": (
        ("visual.", "model.visual."),
        ("decoder.lm.model.", "model.language_model."),
        ("decoder.lm.lm_head.", "lm_head."),
        ("project_up.", "model.project_up."),
        ("project_down.", "model.project_down."),
    ),
    "hf": (
        ("model.visual.", "model.visual."),
        ("model.decoder.lm.model.", "model.language_model."),
        ("model.decoder.lm.lm_head.", "lm_head."),
        ("project_down.", "model.project_down."),
        ("project_up.", "model.project_up."),
    ),
}

_INV_FREQ = ".rotary_emb.inv_freq"
_FUSED_BIAS = ".attn.qkv.bias"
_QUERY_BIAS = ".attn.q_bias"
_VALUE_BIAS = ".attn.v_bias"

#: Parts of an image-generation file, in their published order, and the prefix of each.
GEN_COMPONENTS = ("multimodal_encoder", "unet", "vae", "safety_checker")


def to_ours(name: str, scheme: Scheme) -> str | None:
    """Our name for `name` of `scheme`, prefixes only; None when the scheme has no such prefix."""
    for theirs, ours in _PREFIXES[scheme]:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return None


def from_ours(name: str, scheme: Scheme) -> str:
    """The name in `scheme` of our parameter `name`, prefixes only.

    Raises:
        ValueError: `name` is no parameter name of `Emu2ForConditionalGeneration`.
    """
    for theirs, ours in _PREFIXES[scheme]:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    raise ValueError(f"{name!r} is not the name of an Emu2 parameter.")


def recognise_scheme(names: Iterable[str]) -> Scheme | None:
    """The scheme of a listing of multimodal-encoder names, None when it is none of the three.

    Told by the embedding matrix or any other tensor of the language model, whose prefix differs in each of them.
    """
    marks: dict[str, Scheme] = {
        "model.language_model.": "ours",
        "decoder.lm.": "native",
        "model.decoder.lm.": "hf",
    }
    for name in names:
        for prefix, scheme in marks.items():
            if name.startswith(prefix):
                return scheme
    return None


@dataclass(frozen=True)
class Piece:
    """Where one of our tensors comes from: a tensor of the file, whole or one third of it."""

    source: str
    part: Part = "whole"


@dataclass
class ReadingPlan:
    """How a listing of a file becomes our state dict.

    Attributes:
        pieces: our name -> where it comes from.
        ignored: names that are known and not needed (rotary tables).
        unknown: names the scheme does not have.
        scheme: the scheme the listing is in; None for parts whose names are their own (a safety checker).
        prefix: what the file puts before every name of the scheme.
    """

    scheme: Scheme | None
    pieces: dict[str, Piece] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    prefix: str = ""

    def source_name(self, name: str) -> str:
        """How the file calls (or would call) our tensor `name`; for messages."""
        if name in self.pieces:
            return self.pieces[name].source
        return self.prefix + (from_ours(name, self.scheme) if self.scheme is not None else name)


def plan_reading(names: Iterable[str], scheme: Scheme, *, prefix: str = "") -> ReadingPlan:
    """Match every name of a file with ours. Both forms of the vision bias are understood in every scheme.

    Args:
        names: the names in the file; all of them begin with `prefix`.
        scheme: the scheme they are in behind the prefix.
        prefix: "multimodal_encoder." in an image-generation file.
    """
    plan = ReadingPlan(scheme, prefix=prefix)
    for name in names:
        if name.endswith(_INV_FREQ):
            plan.ignored.append(name)
            continue
        ours = to_ours(name.removeprefix(prefix), scheme)
        if ours is None:
            plan.unknown.append(name)
        elif ours.endswith(_FUSED_BIAS) and ours.startswith("model.visual."):
            stem = ours[: -len(_FUSED_BIAS)]
            plan.pieces[stem + _QUERY_BIAS] = Piece(name, "query")
            plan.pieces[stem + _VALUE_BIAS] = Piece(name, "value")
        else:
            plan.pieces[ours] = Piece(name)
    return plan


@dataclass(frozen=True)
class Written:
    """One tensor of a file to be written.

    Attributes:
        name: its name there.
        sources: our names it is made of: one, or query and value bias of a fused one, or none for a rotary table.
        kind: "whole" copies, "fused_bias" writes `[query, zeros, value]`, "inv_freq" computes the rotary table.
    """

    name: str
    sources: tuple[str, ...]
    kind: Literal["whole", "fused_bias", "inv_freq"] = "whole"


def plan_writing(names: Iterable[str], scheme: Scheme, *, inv_freq: bool = True) -> list[Written]:
    """Everything a file of `scheme` holds, in the published order: tower, language model, bridge.

    Args:
        names: our parameter names, in the order of our state dict.
        scheme: the naming to write.
        inv_freq: also list the rotary tables, which published files hold and which are no parameters.
    """
    written: list[Written] = []
    held_back: dict[str, Written] = {}
    for name in sorted(names, key=lambda name: _published_place(name, scheme)):
        if scheme == "hf" and name.startswith("model.visual.") and name.endswith((_QUERY_BIAS, _VALUE_BIAS)):
            stem, which = name.rsplit(".", 1)
            if which == "q_bias":
                fused = Written(from_ours(stem, scheme) + ".qkv.bias", (name, stem + ".v_bias"), "fused_bias")
                held_back[stem + ".qkv.weight"] = fused
            continue
        written.append(Written(from_ours(name, scheme), (name,)))
        if name in held_back:
            written.append(held_back.pop(name))
        if inv_freq and scheme != "ours" and name.endswith(".self_attn.o_proj.weight"):
            stem = from_ours(name, scheme).removesuffix(".o_proj.weight")
            written.append(Written(stem + _INV_FREQ, (), "inv_freq"))
    return written + list(held_back.values())


#: Order of the parts of a tower block in published files.
_BLOCK_PARTS = ("norm1", "attn", "norm2", "mlp")


def _published_place(name: str, scheme: Scheme) -> tuple[int, int, int]:
    """Sort key of our `name`: component, block of the tower, part of the block. Sorting by it is stable otherwise."""
    component = next((i for i, (_, prefix) in enumerate(_PREFIXES[scheme]) if name.startswith(prefix)), -1)
    pieces = name.split(".")
    if pieces[1:3] == ["visual", "blocks"]:
        return component, int(pieces[3]), _BLOCK_PARTS.index(pieces[4])
    return component, -1, 0


def split_components(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Group the names of an image-generation file: component -> {name within it: name in the file}.

    Names of no component are grouped under "".
    """
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        component, _, rest = name.partition(".")
        if component in GEN_COMPONENTS and rest:
            groups.setdefault(component, {})[rest] = name
        else:
            groups.setdefault("", {})[name] = name
    return groups


_SAFETY_OLD = "vision_model.vision_model."
_SAFETY_NEW = "vision_model."


def safety_checker_to_published(name: str) -> str:
    """`vision_model.X` or `vision_model.vision_model.X` -> the latter, which transformers 4.31 wrote."""
    if name.startswith(_SAFETY_NEW) and not name.startswith(_SAFETY_OLD):
        return _SAFETY_OLD + name[len(_SAFETY_NEW) :]
    return name


def match_safety_checker(names: Iterable[str], wanted: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Match the names of a safety checker file with those of the model at hand, whichever form each is in.

    transformers before 5 nests the CLIP tower twice, later versions flatten it.

    Returns:
        {wanted name: name in the file}, and the names that are known and not needed (`position_ids`, a buffer).
    """
    by_published = {safety_checker_to_published(name): name for name in wanted}
    matched: dict[str, str] = {}
    ignored: list[str] = []
    for name in names:
        if name.endswith("embeddings.position_ids"):
            ignored.append(name)
        else:
            matched[by_published.get(safety_checker_to_published(name), name)] = name
    return matched, ignored
