"""`import emu2.auto` makes Emu2 known to transformers' Auto classes.

    import emu2.auto
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)

`folder` is one of ours; published folders name remote code and another tokeniser class, so convert them first.

A module of its own, because `import emu2` imports no torch.
"""

import emu2.model.modeling_emu2
import emu2.processing.processor  # noqa: F401 (both register themselves when imported)
