"""`import prunelab.hf`, and transformers itself loads what prunelab quantised.

    import prunelab.hf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("models/s1/dense-int4")

Registers a quantiser under the name that such a folder's config.json says (`quantization_config`). Apart from the rest,
because importing it imports transformers, which takes seconds. To have such a model elsewhere, copy its folder; the
library's save_pretrained refuses it.
"""

import re
from pathlib import Path

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from prunelab.models.tensors import Tensors
from prunelab.quantised import files


@register_quantization_config(files.METHOD)
class QuantisedConfig(QuantizationConfigMixin):
    """`quantization_config` of config.json: what of quantised.json is needed to build the model."""

    def __init__(self, precision: str, group: int | None, head: str, tied: bool, **ignored):
        self.quant_method = files.METHOD
        self.precision, self.group, self.head, self.tied = precision, group, head, tied


@register_quantizer(files.METHOD)
class Quantiser(HfQuantizer):
    """Loads a folder of files.write; it quantises nothing on the way."""

    def __init__(self, quantization_config, **options):
        super().__init__(quantization_config, **options)
        if not self.pre_quantized:
            raise ValueError("prunelab quantises with prunelab.quantised.quantise; from_pretrained loads what it wrote")

    def _process_model_before_weight_loading(self, model, checkpoint_files=None, **options):
        said = self.quantization_config
        self._folder = Path(checkpoint_files[0]).parent
        self._layers = files.prepare(model, said.precision, said.group, said.head, said.tied)
        for layer in self._layers.values():
            # GPT-2 gives its projections new values by name; this one says, as the library's do, that it has some.
            layer.__dict__["weight"] = torch.empty(0)
            layer.weight._is_hf_initialized = True
        # The library reads all else; ours would be reported as tensors without a place.
        own = {rf"^{re.escape(weight)}(\.scale|\.bits)?$" for weight in self._layers}
        model._keys_to_ignore_on_load_unexpected = own | set(model._keys_to_ignore_on_load_unexpected or ())

    def _process_model_after_weight_loading(self, model, **options):
        for layer in self._layers.values():
            del layer.__dict__["weight"]
        files.fill_layers(self._layers, Tensors(self._folder), self._folder)
        for layer in self._layers.values():
            layer.to(model.device)  # read into main memory, where `device_map` has put all else on a GPU already
        del self._layers
        return model

    def is_serializable(self):
        return False

    @property
    def is_trainable(self):
        return False
