"""What became of the tensors of one part when a model is built from parts."""

from dataclasses import dataclass, field


@dataclass
class PartReport:
    """What became of one part, by our names (of the file's, for `unused`)."""

    source: str | None
    copied: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = [("copied", self.copied), ("resized", self.resized), ("fresh", self.fresh), ("unused", self.unused)]
        said = ", ".join(f"{len(names)} {what}" for what, names in counts if names)
        return f"{said or 'nothing'} ({self.source or 'from scratch'})"
