"""`prunelab try MODEL`: look at a model, time a few passes of it, and write a study of what fits into some minutes.

The model is brought and looked at as the stage fetch will do it, so what cannot be pruned is refused here in the same
words. The study is a file of differences like any other (studies/try-<name>.yaml): it can be read, changed and run
again with `prunelab study`.
"""

import json
import re
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from prunelab.command import estimate
from prunelab.errors import InputError
from prunelab.study import params, studies

WRITTEN = "# Written by `prunelab try"  # how such a file begins; one that begins otherwise is somebody's
LONGEST = 512  # tokens of a window: what a CPU scores in reasonable batches
SHORTEST = 16  # tokens that a model must take to be judged at all
OUTPUT = 8  # tokens that are timed behind a prompt
PASS_SECONDS = 1.0  # of scoring, before it is believed
IMPORTS = "import torch, transformers, prunelab.models.loading, prunelab.quality.quality"
BESIDE_S = 1.5  # what starting a stage takes besides its imports: DVC's own start, the hashes of what was written


class Looked(NamedTuple):
    timed: estimate.Timed
    context: int
    blocks: int
    parameters: int
    kind: str  # the model_type
    source: params.Source
    refused: str | None = None  # why it can't be quantised


def write(model: str, rate: int, minutes: float) -> str:
    """Write the study of `model` (a folder, or an id of the hub) and say what it plans and why; its name.

    Raises InputError for what is no model of ours to try, and for too few minutes.
    """
    if not (studies.FOLDER / f"{studies.DEFAULT}.yaml").exists():
        raise InputError(
            f"{Path.cwd()} has no {studies.FOLDER}/{studies.DEFAULT}.yaml; try a model in the project's folder"
        )
    source = source_of(model)
    name = name_of(model)
    path = studies.FOLDER / f"{name}.yaml"
    if path.exists() and not path.read_text(encoding="utf-8").startswith(WRITTEN):
        raise InputError(f"{path}: a study of that name is there, and was not written by prunelab try; rename it")
    print(f"looking at {model} and timing a few passes of it …", flush=True)
    looked = look(source)
    removed = int(rate / 100 * looked.blocks + 0.5)
    rivals = () if looked.refused else estimate.RIVALS
    plan = estimate.plan(looked.timed, minutes, looked.context, 0 < removed < looked.blocks, rate, rivals)
    if looked.refused:
        plan.left_out.append(f"{', '.join(estimate.RIVALS)} ({looked.refused})")
    path.write_text(text(model, name, rate, minutes, looked, plan), encoding="utf-8")
    studies.merge(name)  # what is wrong with it is told now
    print(told(path, rate, minutes, looked, plan), flush=True)
    return name


def source_of(model: str) -> params.Source:
    """Where `model` is. Raises InputError where it is neither a folder nor looks like an id of the hub."""
    path = Path(model).expanduser()
    if path.is_dir():
        return params.Source(kind="path", name=model)
    if path.exists():
        raise InputError(f"{model}: expected a model's folder or an id of the hub (owner/name), found a file")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model):
        raise InputError(
            f"{model}: expected a model's folder or an id of the hub (owner/name), found no such folder in {Path.cwd()}"
        )
    return params.Source(kind="hub", name=model)


def name_of(model: str) -> str:
    """`models/Tiny_Llama-1.1B/` → `try-tiny-llama-1-1b`."""
    words = re.sub(r"[^a-z0-9]+", "-", Path(model).expanduser().resolve().name.lower()).strip("-")
    return f"try-{words or 'model'}"


def look(source: params.Source) -> Looked:
    """Bring the model, see whether it is one, and time it. Raises InputError in terms of the source."""
    from prunelab.models import models, pretrained

    with tempfile.TemporaryDirectory(prefix="prunelab-try-") as scratch:
        folder = Path(scratch) / "model"
        manifest = pretrained.prepare(source, folder)
        if source.kind == "hub":  # what was timed is what runs
            source = source.model_copy(update={"revision": manifest["source"]["revision"]})
        timed, model = _time(folder, source.name)
    limit = models.context_length(model.config)
    looked = Looked(
        timed, _context(limit), len(models.decoder_blocks(model)[1]),
        sum(parameter.numel() for parameter in model.parameters()), model.config.model_type, source,
    )  # fmt: skip
    return looked._replace(refused=_refused(model))


def _refused(model) -> str | None:
    """Why `model`, which is lost to it, can't be quantised, or None."""
    from prunelab import quantised

    try:
        quantised.quantise(model, "int8")
    except InputError as error:
        return str(error).removeprefix("int8: ").rpartition(";")[0]
    return None


def _context(limit: int | None) -> int:
    return min(LONGEST, limit or LONGEST)


def _time(folder: Path, name: str):
    """(Timed, the model) of the plain model in `folder`."""
    import subprocess
    import sys

    import numpy as np

    from prunelab.efficiency import device, latency
    from prunelab.models import checkpoint, loading, models, workers
    from prunelab.quality import quality

    began = time.perf_counter()
    model = checkpoint.load(folder)
    load_s = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    start_s = time.perf_counter() - began + load_s + BESIDE_S
    loading.require_causal(model, name)
    context = _context(models.context_length(model.config))
    if context < SHORTEST:
        raise InputError(f"{name}: takes {context} tokens at once, at least {SHORTEST} are needed to judge it")
    model = quality.ready(model)
    vocabulary = model.get_input_embeddings().num_embeddings

    def token_seconds(windows: int) -> tuple[float, int]:
        """(seconds a token, windows) of scoring so many windows, or twice as many again until it took a while."""
        tokens = np.random.default_rng(0).integers(vocabulary, size=(windows, context), dtype=np.int32)
        began = time.perf_counter()
        quality.score(model, tokens, name, batch_tokens=4 * context)
        seconds = time.perf_counter() - began
        return (seconds / tokens.size, windows) if seconds >= PASS_SECONDS else token_seconds(2 * windows)

    # One thread: several would wait for each other where a neighbour has a core, and tell of that instead.
    with workers.threads(1):
        token_s, windows = token_seconds(1)
        work = latency.Work(min(32, context // 2), 1, 4)
        served = [latency.serve(model, latency.prompts(model, work, 0), work.output_tokens) for _ in range(3)]
        hessian_s, solve_s = _sparsegpt(models.prunable_tensors(model))
        prune_s = _ranking() * sum(parameter.numel() for parameter in model.parameters())
    step_s, prefill_s = (min(getattr(one, name) for one in served) / 1000 for name in latency.COMPARED[::-1])
    pass_s = prefill_s + OUTPUT * step_s
    cores = max(1, int(device.usable_cores()))
    # Here each thread has windows of its own and waits for nobody.
    side_by_side = min(float(cores), max(1.0, token_s / token_seconds(cores * windows)[0]))
    return estimate.Timed(start_s, token_s, step_s, pass_s, hessian_s, solve_s, prune_s, side_by_side), model


def _sparsegpt(tensors: list[dict]) -> tuple[float, float]:
    """(seconds to add one token to the sums, seconds to solve) for all `tensors`, from one layer of 512 × 512.

    A token costs in² multiplications a layer; a layer's factor in³ and its columns out·in².
    """
    import torch

    from prunelab.pruning import sparsegpt

    side, tokens = 512, 2048
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(tokens, side, generator=generator)
    inputs.T @ inputs  # the first product starts the library's threads
    began = time.perf_counter()
    hessian = inputs.T @ inputs
    token_s = (time.perf_counter() - began) / tokens / side**2
    began = time.perf_counter()
    sparsegpt.solve(torch.randn(side, side, generator=generator), sparsegpt.factorise(hessian), sparsity=0.5)
    unit_s = (time.perf_counter() - began) / (2 * side**3)
    shapes = [(t["shape"][::-1] if t["transposed"] else t["shape"]) for t in tensors]
    return (
        token_s * sum(columns**2 for _, columns in shapes),
        unit_s * sum(columns**3 + rows * columns**2 for rows, columns in shapes),
    )


def _ranking() -> float:
    """Seconds a weight to rank it and to write what is left, from a million."""
    import torch

    from prunelab.pruning import masks

    scores = torch.rand(1, 1 << 20, generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    masks.remove(scores, scores.numel() // 2)
    return 4 * (time.perf_counter() - began) / scores.numel()  # packing, hashing and writing are as much again, each


def text(model: str, name: str, rate: int, minutes: float, looked: Looked, plan: estimate.Plan) -> str:
    """The study as a file of differences."""
    context, source = looked.context, looked.source
    prompt = min(32, context // 2)
    more = "" if source.revision is None else f"\n    revision: {json.dumps(source.revision)}"
    further = ", ".join([*plan.choice.rivals, *([f"depth-{rate}"] if plan.choice.depth else [])])
    return f"""\
{WRITTEN} {model} --rate {rate} --minutes {minutes:g}`, which writes it anew: rename it to keep changes.
# About {plan.cost.total_s / 60:.1f} minutes on the machine that wrote it.
study: {name}

fetch:
  model:
    kind: {source.kind}
    name: {json.dumps(source.name)}{more}

train:
  start: fetched
  architecture: null      # the model brings its own
  config: {{}}
  tokenizer: fetched
  context: {context}
  epochs: 0               # as it is

calibrate:
  samples: {plan.crops}
  length: {context}
  seed: 0
  propagate: dense        # one pass serves every method
  batch_tokens: {max(4096, context)}
  precision: auto
  hidden_states: memory
  owl_outlier_multiple: 5
  owl_span: 0.08

prune:
  methods: [{", ".join(plan.choice.methods)}]
  rates: [{rate}]
  further: [{further}]
  checkpoint: last

quality:
  context: {context}
  max_windows: {plan.windows}
  kl_windows: {max(2, plan.windows // 8)}
  batch_tokens: {4 * context}
  robustness: {{texts: {max(1, plan.windows // 64)}, kinds: [typos, drop, case], strengths_percent: [10]}}
  samples: {{prompts: ["The king "], tokens: {min(40, context // 2)}, seeds: [1]}}

efficiency:
  methods: [magnitude]    # the other masks take over its times
  seconds: {plan.timing_s}
  prompt_tokens: [{prompt}]
  batch_sizes: [1]
  output_tokens: {min(OUTPUT, context - prompt)}

energy:
  seconds: {plan.energy_s}

report:
  title: {json.dumps(f"What {rate} % fewer weights do to {Path(model).name}")}

export:
  onnx: false
"""


def told(path: Path, rate: int, minutes: float, looked: Looked, plan: estimate.Plan) -> str:
    """What is planned and why, in a few lines."""
    timed, cost = looked.timed, plan.cost
    models = [f"{method}-{rate}" for method in plan.choice.methods] + [f"depth-{rate}"] * plan.choice.depth
    models += plan.choice.rivals
    lines = [
        f"{looked.kind}, {looked.parameters:,} parameters, {looked.blocks} blocks · here {1000 * timed.token_s:.3g} ms "
        f"to score a token, {1000 * timed.step_s:.3g} ms to make one, {timed.start_s:.1f} s to start a stage, "
        f"{timed.side_by_side:.1f} of them at a time",
        f"plan for {minutes:g} minutes: about {cost.total_s / 60:.1f} ({cost.starting_s / 60:.1f} to start stages, "
        f"{cost.computing_s / 60:.1f} to compute, {cost.measuring_s / 60:.1f} to measure time and energy)",
        f"  {', '.join(models)} beside dense",
        f"  quality on {plan.windows} windows of {looked.context} tokens, calibration on {plan.crops} crops, "
        f"{plan.timing_s:g} s of timing a model",
        *(f"  left out: {reason}" for reason in plan.left_out),
        f"{path} (change it, and run it again: prunelab study {path.stem})",
    ]
    return "\n".join(lines)
