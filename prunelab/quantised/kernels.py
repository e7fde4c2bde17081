"""Products of activations with int8 and int4 weights, by the kernels that torch brings for CPUs.

For few tokens, as in decoding, the kernels read the small weights and nothing else. They are not safe by themselves
(torch 2.13): with bf16 activations and inputs in no multiple of 16 the int8 one reads past a row; the int4 one wants
outputs in multiples of 16 and inputs in multiples of the group. So weights are padded with zeros in memory (`pack`).
Many tokens go through a dense product of a part of the layer at a time.
"""

import threading

import torch
from torch.nn import functional

from prunelab.models import models
from prunelab.quantised.grid import Grid

INPUTS = 16  # that the int8 kernel reads at a time
OUTPUTS = 64  # a multiple of the rows that every CPU's int4 layout keeps together
TOKENS = {"int8": 8, "int4": 64}  # up to so many the kernels are faster (python -m benchmarks.crossover)
PART = 1 << 18  # weights made dense at a time: they stay in the processor's cache

# Without AVX-512 the kernels are vectorised for bf16 alone (fp32 takes 20 times as long), so activations are cast.
WIDE = torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def kernel_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the kernels compute in on this machine for activations in `dtype`; scales are held in it."""
    return torch.float32 if WIDE and dtype != torch.bfloat16 else torch.bfloat16


def product_dtype(dtype: torch.dtype) -> torch.dtype:
    """What dense products are computed in: bf16 where the machine multiplies it natively, else fp32."""
    return torch.bfloat16 if models.computes_bf16() else torch.float32


def padded(grid: Grid, outputs: int, inputs: int) -> tuple[int, int]:
    """(outputs, inputs) as they lie in memory."""
    if grid.precision == "int8":
        return outputs, inputs + -inputs % INPUTS
    return outputs + -outputs % OUTPUTS, inputs + -inputs % grid.group


def layout() -> int | None:
    """How many rows the int4 layout of this machine keeps together; None where it is none that is known here.

    Known is: of `rows` rows, byte (k, b) holds input k of row b in its low half and of row b + rows/2 in its high one.
    """
    global _rows
    if _rows == -1:
        with torch.device("cpu"):  # also while a model without values is built
            probe = (torch.arange(OUTPUTS * 32, dtype=torch.int32).view(OUTPUTS, 32) * 7) % 16
            found = torch._convert_weight_to_int4pack_for_cpu(probe, 1).flatten()
            levels = probe.to(torch.uint8)
            _rows = next((rows for rows in (64, 32) if torch.equal(found, _arranged(levels, rows))), None)
    return _rows


_rows: int | None = -1  # not looked at yet


def _arranged(levels: torch.Tensor, rows: int) -> torch.Tensor:
    """uint8 levels (out, in) of 0 … 15 in the layout of `rows`, flat."""
    halves = levels.view(-1, 2, rows // 2, levels.shape[1])
    return (halves[:, 0] | halves[:, 1] << 4).transpose(1, 2).flatten()


def pack(grid: Grid, levels: torch.Tensor, steps: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """(qdata, scale) as the kernels read them, of levels (out, in) and their steps, as of `Grid`.

    int8: (out, in') int8 and (out,); int4: (out', in'/2) uint8 and (in'/group, out', 2), scale and offset; in `dtype`.
    """
    outputs, inputs = levels.shape
    rows, columns = padded(grid, outputs, inputs)
    if grid.precision == "int8":
        # Copies: what is read from a file would keep all of it in memory.
        return functional.pad(levels, (0, columns - inputs)).contiguous(), steps[:, 0, 0].to(dtype, copy=True)
    qdata = torch.empty(rows, columns // 2, dtype=torch.uint8)
    for start in range(0, rows, OUTPUTS):
        part = levels[start : start + OUTPUTS]
        part = functional.pad(part, (0, columns - inputs, 0, OUTPUTS - len(part))).add_(8).view(torch.uint8)
        qdata[start : start + OUTPUTS] = _arranged(part, layout() or OUTPUTS).view(OUTPUTS, -1)
    both = torch.zeros(columns // grid.group, rows, 2, dtype=dtype)
    both[:, :outputs] = steps.transpose(0, 1).to(dtype)
    return qdata, both


def unpack(grid: Grid, qdata: torch.Tensor, outputs: int, inputs: int) -> torch.Tensor:
    """int8 levels (out, in) of what `pack` made."""
    if grid.precision == "int8":
        return qdata[:outputs, :inputs]
    low, high = _halves(qdata)
    return torch.stack([low, high], 1).permute(0, 1, 3, 2).reshape(-1, low.shape[1])[:outputs, :inputs]


def _halves(qdata: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 levels of the two halves of every group of rows, each (groups, in, rows/2), of int4 qdata."""
    signed = (qdata ^ 0x88).view(torch.int8)  # levels are stored 8 higher; so a half is a number of four bits
    signed = signed.view(-1, qdata.shape[1] * 2, (layout() or OUTPUTS) // 2)
    return (signed << 4) >> 4, signed >> 4


def few(grid: Grid, x: torch.Tensor, qdata: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x (tokens, in') in scale's dtype, contiguous → (tokens, out'), by the kernel."""
    if grid.precision == "int8":
        return torch._weight_int8pack_mm(x, qdata, scale)
    return torch._weight_int4pack_mm_for_cpu(x, qdata, grid.group, scale)


@torch.no_grad()
def many(grid: Grid, x: torch.Tensor, qdata: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x (tokens, in') → (tokens, out') in the dtype that the machine multiplies fastest, by dense products."""
    dtype = product_dtype(x.dtype) if x.is_cpu else x.dtype
    x, columns = x.to(dtype), x.shape[1]
    outputs = len(qdata)
    out = torch.empty(len(x), outputs, dtype=dtype, device=x.device)
    step = max(OUTPUTS, PART // columns // OUTPUTS * OUTPUTS)
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        if grid.precision == "int8":
            dense = _scratch((stop - start) * columns, dtype, x.device).view(-1, columns).copy_(qdata[start:stop])
            torch.mm(x, dense.T, out=out[:, start:stop])
        else:
            out[:, start:stop] = _int4_product(grid, x, qdata[start:stop], scale[:, start:stop])
    return out.mul_(scale.to(dtype)) if grid.precision == "int8" else out


_kept = threading.local()  # of each thread, by dtype: memory for a part of a layer


def _scratch(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(count,) numbers of any value, on a CPU always the same memory: to be given new takes longer than to fill it."""
    if device.type != "cpu":
        return torch.empty(count, dtype=dtype, device=device)
    kept = _kept.__dict__.setdefault("of", {})
    if dtype not in kept or len(kept[dtype]) < count:
        with torch.inference_mode(False):  # else it could not be written to outside of such a mode
            kept[dtype] = torch.empty(count, dtype=dtype)
    return kept[dtype][:count]


def _int4_product(grid: Grid, x: torch.Tensor, qdata: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x (tokens, in') times int4 rows (out, in'/2): (tokens, out).

    In few passes over long rows, because making a layer dense must cost little beside a product of 128 tokens: the
    bytes that belong together are moved as one number, and the columns stay in the order (half, group, row) until the
    product is there.
    """
    inputs, outputs = x.shape[1], len(qdata)
    half = (layout() or OUTPUTS) // 2
    moved = qdata.view(-1, inputs, half).view(torch.complex128).transpose(0, 1).contiguous()  # 16 bytes each
    signed = (moved.view(torch.uint8).view(inputs, -1) ^ 0x88).view(torch.int8)  # levels are stored 8 higher
    dense = _scratch(inputs * outputs, x.dtype, x.device).view(inputs, 2, outputs // 2)
    dense[:, 1].copy_(signed >> 4)
    dense[:, 0].copy_(signed.bitwise_left_shift_(4).bitwise_right_shift_(4))
    ordered = scale.to(x.dtype).view(len(scale), -1, 2, half, 2).permute(4, 0, 2, 1, 3).contiguous()
    scale, offset = ordered.view(2, len(scale), 1, outputs)
    by_group = dense.view(-1, grid.group, outputs)
    torch.addcmul(offset, by_group, scale, out=by_group)
    out = x @ dense.view(inputs, outputs)
    return out.view(len(x), 2, -1, half).transpose(1, 2).reshape(len(x), outputs)


def rows_of(
    grid: Grid, ids: torch.Tensor, qdata: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """(tokens, in') in `dtype`: the rows `ids` (tokens,) of a table."""
    if grid.precision == "int8":
        return qdata[ids].to(dtype) * scale[ids, None].to(dtype)
    together = layout() or OUTPUTS
    half = together // 2
    place = ids % together
    found = qdata.view(-1, qdata.shape[1] * 2, half)[ids // together, :, place % half]  # (tokens, in')
    levels = ((found >> ((place >= half).to(torch.uint8) * 4)[:, None]) & 15).to(torch.int8) - 8
    scale, offset = scale[:, ids].transpose(0, 1).to(dtype).repeat_interleave(grid.group, dim=1).unbind(2)
    return levels.to(dtype) * scale + offset
