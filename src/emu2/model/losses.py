"""The two losses of a sequence: next token, next visual embedding. Both predict position t from the state at t-1.

Figure 2 of the paper: `[IMG]` is a text target; the states at `[IMG]`, e1 ... e(N-1) regress e1 ... eN; the state at
eN has no target; `[/IMG]` predicts what follows. The regression is a mean squared error (confirmed by the authors),
here in the space of the pooled vision features, before `project_up`.

Each function returns the mean over its targets and their number, so that a training loop that accumulates gradients
can weigh micro-batches by targets. With no target the mean is 0 and carries no gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def next_token_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy of the next token.

    Args:
        logits: float[B, T, V].
        labels: int[B, T], -100 where there is no target; position 0 is never a target.

    Returns:
        mean over the targets, float32 scalar; number of targets, int64 scalar.
    """
    targets = labels[:, 1:].to(logits.device)
    count = (targets != -100).sum()
    total = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    return total / count.clamp(min=1), count


def next_embedding_loss(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of the predicted visual embeddings.

    Args:
        predicted: float[M, D], `project_down` of the states before the M target slots.
        target: float[M, D], pooled vision features of these slots; detached here.

    Returns:
        mean over all M * D numbers, float32 scalar; number of embeddings M, int64 scalar.
    """
    count = torch.tensor(predicted.shape[0], device=predicted.device)
    if predicted.shape[0] == 0:
        return predicted.float().sum(), count
    return F.mse_loss(predicted.float(), target.detach().to(predicted.device).float()), count
