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


#: Directions in which embeddings spread less than this share of the widest one count the less, the less they spread:
#: there, whitening would make noise as loud as what is shown.
_LEAST_SPREAD = 0.03


def whitening(embeddings: Tensor) -> Tensor:
    """What errors of embeddings are multiplied by so that every direction counts by its own spread.

    A young tower puts the background and the places into nine tenths of its embeddings' variance, and what the things
    are into the rest; a plain mean squared error learns them in that order.

    Args:
        embeddings: float[M, D], of as many pictures as there are; M well above D.

    Returns:
        float32[D, D], on the CPU; scaled so that the error of predicting the mean of these embeddings is 1.
    """
    off = (embeddings.double() - embeddings.double().mean(dim=0)).cpu()
    variances, directions = torch.linalg.eigh(off.T @ off / len(off))
    spread = variances.clamp(min=0).sqrt()
    metric = directions / (spread + _LEAST_SPREAD * spread.max())
    return (metric / (off @ metric).square().mean().sqrt()).float()


def next_embedding_loss(predicted: Tensor, target: Tensor, metric: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean squared error of the predicted visual embeddings.

    Args:
        predicted: float[M, D], `project_down` of the states before the M target slots.
        target: float[M, D], pooled vision features of these slots; detached here.
        metric: float[D, D], what the errors are multiplied by (`whitening`); None leaves them as they are.

    Returns:
        mean over all M * D numbers, float32 scalar; number of embeddings M, int64 scalar.
    """
    count = torch.tensor(predicted.shape[0], device=predicted.device)
    if predicted.shape[0] == 0:
        return predicted.float().sum(), count
    predicted, target = predicted.float(), target.detach().to(predicted.device).float()
    if metric is not None:
        return ((predicted - target) @ metric.to(predicted)).square().mean(), count
    return F.mse_loss(predicted, target), count
