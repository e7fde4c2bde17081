"""The step from a decoder's last hidden states to logits, taken apart from the model so that it can run in pieces.

Logits are the largest thing a language model computes: 16k tokens x 50k of them are 3 GB in fp32, while the hidden
states they come from are a hundredth of that.
"""

from typing import NamedTuple

import torch

from prunelab.quantised.layers import QuantisedLinear


class Head(NamedTuple):
    """From last hidden states to logits: `softcap(scale · (h Wᵀ + b))`; without a weight the states are the logits."""

    weight: torch.Tensor | None = None  # (vocabulary, d)
    bias: torch.Tensor | None = None  # (vocabulary,)
    scale: float = 1.0
    softcap: float | None = None  # logits become cap · tanh(logits / cap)
    layer: QuantisedLinear | None = None  # in place of weight and bias, where they are quantised

    def vocabulary(self, hidden: torch.Tensor) -> int:
        """How many logits a row of hidden states (…, d) becomes."""
        if self.layer is not None:
            return self.layer.out_features
        return hidden.shape[-1] if self.weight is None else self.weight.shape[0]

    def to(self, device) -> "Head":
        """The same head on another device, without gradients."""
        moved = {
            k: None if t is None else t.detach().to(device) for k, t in (("weight", self.weight), ("bias", self.bias))
        }
        return self._replace(**moved)

    @property
    def is_narrow(self) -> bool:
        """Whether the logits take less room than the hidden states they come from; asked of dense, never quantised."""
        return self.weight is None or self.weight.shape[0] <= self.weight.shape[1]

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocabulary) in fp32 of hidden states (n, d)."""
        if self.layer is not None:
            logits = self.layer(hidden).float()
        elif self.weight is None:
            return hidden.float()
        else:
            logits = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1.0:
            logits *= self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


def split(model):
    """(body, head): `body(ids)` gives last hidden states (B, L, d), and `head` turns them into the model's own logits.

    As `parts` says, of a whole text at once.
    """
    body, head = parts(model)
    return lambda ids: body(input_ids=ids, use_cache=False)[0], head


def parts(model):
    """(body, head): the module whose first output `head` turns into the model's own logits.

    Both are checked against `model(ids).logits`. Where an architecture does more between the two than `Head` knows, the
    body is the model and gives the logits themselves, which is right but holds them for a whole batch.
    """
    config, output = model.config, model.get_output_embeddings()
    if output is not None and model.base_model is not model:
        quantised = isinstance(output, QuantisedLinear)
        vocabulary, width = (output.out_features, output.in_features) if quantised else output.weight.shape
        head = Head(
            *((None, None) if quantised else (output.weight, getattr(output, "bias", None))),
            layer=output if quantised else None,
            scale=getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0),
            softcap=getattr(config, "final_logit_softcapping", None),
        )
        ids = torch.arange(4, device=model.device)[None] % vocabulary
        with torch.inference_mode():
            hidden = model.base_model(input_ids=ids, use_cache=False)[0]
            expected = model(input_ids=ids, use_cache=False).logits.float()
            if hidden.shape[-1] == width:
                found = head(hidden[0])[None]
                tolerance = 1e-4 if hidden.dtype == torch.float32 else 2e-2
                # equal_nan: a broken model is told by its loss, with its name, and not here.
                if torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
                    return model.base_model, head
    return model, Head()
