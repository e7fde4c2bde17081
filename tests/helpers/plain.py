"""The rules of the post-training methods, plainly and slowly, in float64: what the fast ones must equal."""

import torch


def wanda(weight, inputs, sparsity=None, n_of_m=None):
    """Keep-mask (out, in): |W|·‖X‖, the lowest of each row (or of each n:m group) go, ties by index.

    inputs: (tokens, in), all that reached the layer.
    """
    norms = inputs.double().pow(2).sum(0).sqrt()
    keep = torch.ones(weight.shape, dtype=torch.bool)
    for row, weights in enumerate(weight.double().abs()):
        scores = (weights * norms).tolist()
        if n_of_m is None:
            groups, count = [range(len(scores))], round(sparsity * len(scores))
        else:
            groups = [range(start, start + n_of_m[1]) for start in range(0, len(scores), n_of_m[1])]
            count = n_of_m[0]
        for group in groups:
            for column in sorted(group, key=lambda j: scores[j])[:count]:
                keep[row, column] = False
    return keep


def ria(weight, inputs, sparsity):
    """Keep-mask (out, in): (|W|/Σrow + |W|/Σcolumn)·‖X‖^0.5, the lowest of the whole tensor go, ties by index."""
    weight, norms = weight.double().abs(), inputs.double().pow(2).sum(0).sqrt()
    scores = torch.zeros_like(weight)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            relative = weight[i, j] / weight[i].sum() + weight[i, j] / weight[:, j].sum()
            scores[i, j] = relative * norms[j] ** 0.5
    keep = torch.ones(weight.numel(), dtype=torch.bool)
    keep[scores.flatten().argsort(stable=True)[: round(sparsity * weight.numel())]] = False
    return keep.view(weight.shape)


def sparsegpt(weight, hessian, sparsity=None, n_of_m=None, width=128):
    """The published steps, one column at a time, in float64, with H⁻¹ and its factor formed as written."""
    weight, hessian = weight.double().clone(), hessian.double().clone()
    size = len(hessian)
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    keep = torch.ones_like(weight, dtype=torch.bool)
    for start in range(0, size, width):
        stop = min(start + width, size)
        errors = torch.zeros(len(weight), stop - start, dtype=torch.float64)
        if sparsity is not None:
            scores = weight[:, start:stop] ** 2 / upper.diagonal()[start:stop] ** 2
            count = round(sparsity * scores.numel())
            order = scores.flatten().argsort(stable=True)[:count]
            block = torch.ones(scores.numel(), dtype=torch.bool)
            block[order] = False
            keep[:, start:stop] = block.view(scores.shape)
        for j in range(start, stop):
            if n_of_m and (j - start) % n_of_m[1] == 0:
                group = slice(j, j + n_of_m[1])
                scores = weight[:, group] ** 2 / upper.diagonal()[group] ** 2
                for row in range(len(weight)):
                    keep[row, j + scores[row].argsort(stable=True)[: n_of_m[0]]] = False
            kept = weight[:, j] * keep[:, j]
            error = (weight[:, j] - kept) / upper[j, j]
            weight[:, j:stop] -= torch.outer(error, upper[j, j:stop])
            weight[:, j] = kept
            errors[:, j - start] = error
        weight[:, stop:] -= errors @ upper[start:stop, stop:]
    return weight, keep
