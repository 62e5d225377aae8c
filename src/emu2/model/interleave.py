"""Image and video slots in a token sequence: find them, check their counts, fill them.

    B  rows    T  tokens    N  pictures in the whole batch    Q  embeddings per picture    D  width

Slots are checked before any network runs, so that a wrong number of pictures is one clear error instead of a
misplaced embedding: every row must hold whole runs of Q slots, and the batch as many runs as there are pictures.
"""

import torch
from torch import Tensor


def count_runs(input_ids: Tensor, slot_id: int, num_query: int, *, slot: str) -> list[int]:
    """Pictures that each row has slots for.

    Args:
        input_ids: int[B, T].
        slot_id: id of the slot token.
        num_query: slots one picture takes.
        slot: the slot token's name, for the error.

    Raises:
        ValueError: a row holds a number of slots that is no multiple of `num_query`; names row and numbers.
    """
    per_row = (input_ids == slot_id).sum(dim=1).tolist()
    for row, slots in enumerate(per_row):
        if slots % num_query:
            raise ValueError(
                f"Sample {row} holds {slots} {slot} slots, which is no multiple of the {num_query} that one picture "
                "takes. Was the prompt cut, or built for another num_query?"
            )
    return [slots // num_query for slots in per_row]


def check_counts(input_ids: Tensor, slot_id: int, num_query: int, num_given: int, *, slot: str, what: str) -> None:
    """Raise ValueError unless the batch holds slots for exactly `num_given` pictures.

    Pictures come as one stack in reading order over the batch, so the error names the sample where they run out.
    """
    runs = count_runs(input_ids, slot_id, num_query, slot=slot)
    wanted = sum(runs)
    if wanted == num_given:
        return
    message = (
        f"The prompts have slots for {wanted} {what} ({wanted * num_query} {slot} tokens, {num_query} each), "
        f"but {num_given} {what} were given"
    )
    if num_given < wanted:
        seen = 0
        for row, run in enumerate(runs):  # noqa: B007 (the row where they run out is what we look for)
            seen += run
            if seen > num_given:
                break
        raise ValueError(f"{message}: they run out in sample {row}, which needs {runs[row]}.")
    raise ValueError(f"{message}. Slots per sample: {runs}.")


def fill_slots(inputs_embeds: Tensor, slot_mask: Tensor, features: Tensor) -> Tensor:
    """Write visual embeddings over the slots, in reading order.

    Args:
        inputs_embeds: float[B, T, D].
        slot_mask: bool[B, T], True at N*Q places.
        features: float[N, Q, D], already projected up.

    Returns:
        float[B, T, D]; gradients reach `inputs_embeds` (outside the slots) and `features`.
    """
    features = features.to(device=inputs_embeds.device, dtype=inputs_embeds.dtype)
    return inputs_embeds.masked_scatter(slot_mask.unsqueeze(-1), features)


def visual_targets(labels: Tensor, slot_mask: Tensor) -> Tensor:
    """Slots whose embedding is to be predicted: bool[B, T], True where a slot is labelled with its own id.

    The first position of a row has no state before it to predict from, so it is never a target.
    """
    wanted = slot_mask & (labels != -100)
    return torch.cat([torch.zeros_like(wanted[:, :1]), wanted[:, 1:]], dim=1)


def text_targets(labels: Tensor, slot_mask: Tensor) -> Tensor:
    """Labels with everything but text targets set to -100: int[B, T].

    Slots are regressed, not classified. What directly follows a slot that is not one itself (`[/IMG]`) has no target
    either: the state at the last embedding predicts nothing (Figure 2 of the paper).
    """
    after_slot = torch.zeros_like(slot_mask)
    after_slot[:, 1:] = slot_mask[:, :-1]
    return labels.masked_fill(slot_mask | after_slot, -100)
