"""torchao's format: a process without this package loads the same int8 model."""

import json
import subprocess
import sys

import pytest
import torch

from prunelab.errors import InputError
from prunelab.models import checkpoint
from prunelab.quantised import files, kernels, torchao
from prunelab.quantised.layers import dense_products
from tests.helpers import tiny
from tests.quantised.test_files import MODELS, llama, logits, written

pytest.importorskip("torchao")


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_values_that_a_folder_stands_for_are_a_plain_model(tmp_path, kind, precision):
    _, out, _ = written(tmp_path, MODELS[kind](), precision=precision)
    plain, quantised = files.dequantised(out), files.load(out)
    assert plain.dtype == quantised.dtype
    with dense_products(quantised):
        apart = (logits(plain) - logits(quantised)).norm() / logits(plain).norm()
    rounds = torch.bfloat16 in (plain.dtype, kernels.product_dtype(plain.dtype))  # the machine may multiply in it
    assert apart < (0.02 if rounds else 1e-5)


def test_a_process_without_prunelab_loads_the_same_int8_model(tmp_path):
    _, out, _ = written(tmp_path, llama())
    torchao.export(out, tmp_path / "ao")
    code = """
        import json, sys, torch
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
        with torch.no_grad():
            print(json.dumps(model(torch.arange(20)[None] % 40).logits.tolist()))
        assert type(model.model.layers[0].mlp.up_proj.weight).__name__ == "Int8Tensor"
        assert "prunelab" not in sys.modules
    """
    lines = [line.strip() for line in code.strip().splitlines()]
    script = "\n".join(line if not line.startswith("print") else f"    {line}" for line in lines)
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "ao")], capture_output=True, text=True, cwd=tmp_path
    )
    assert told.returncode == 0, told.stderr
    found = torch.tensor(json.loads(told.stdout.splitlines()[-1]))
    assert torch.allclose(found, logits(files.dequantised(out)), atol=1e-4)
    assert not torch.allclose(found, logits(checkpoint.load(tmp_path / "dense-quantised")), atol=1e-4)


def test_what_torchao_cannot_hold_is_told(tmp_path):
    _, out, _ = written(tmp_path, llama(), "four", precision="int4")
    with pytest.raises(InputError, match="in int4; torchao's int4 needs a CUDA package"):
        torchao.export(out, tmp_path / "ao")
    _, out, _ = written(tmp_path, tiny.gpt2(), "transposed")
    with pytest.raises(InputError, match="c_attn.weight is a Conv1D, which torchao does not quantise"):
        torchao.export(out, tmp_path / "ao")
    assert not (tmp_path / "ao").exists()
