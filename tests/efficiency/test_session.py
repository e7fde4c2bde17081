import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet
import pytest
from ruamel.yaml import YAML

from prunelab.disk.files import read_json
from prunelab.efficiency import joules, latency, session
from prunelab.energy.wattmeter import Window
from prunelab.errors import InputError
from prunelab.models import checkpoint
from prunelab.models.tensors import identity
from prunelab.pruning import pruning
from prunelab.quantised import files as quantised
from prunelab.recipes import variants
from prunelab.study import params
from stages import efficiency
from tests.helpers import synthetic, tiny

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "efficiency": {
        "seconds": 0.3,
        "prompt_tokens": [8, 16],
        "batch_sizes": [1, 2],
        "output_tokens": 4,
        "threads": 1,
        "within_percent": 10,
        "methods": [],
        "device": "here",
    },
    "energy": {
        "seconds": 0.2,
        "window_seconds": 0.02,
        "idle_seconds": 0.05,
        "country": "DEU",
        "grams_per_kwh": 344,
        "grams_source": "a test",
        "litres_per_kwh": 1.8,
        "litres_source": "another",
    },
}
# fmt: off
CONTRACT = [
    "variant", "device", "runtime", "dtype", "threads", "parameters", "nonzero_parameters", "dense_bytes",
    "packed_bytes", "macs_per_token", "prefill_ms", "prefill_ms_p10", "prefill_ms_p90", "decode_ms_per_token",
    "decode_ms_per_token_p10", "decode_ms_per_token_p90",
    "prefill_ms_lo", "prefill_ms_hi", "decode_ms_per_token_lo",
    "decode_ms_per_token_hi", "peak_memory_bytes_lo", "peak_memory_bytes_hi", "weights_sha256",
    "prefill_ratio", "prefill_ratio_lo", "prefill_ratio_hi",
    "decode_ratio", "decode_ratio_lo", "decode_ratio_hi", "decode_verdict", "peak_memory_bytes", "decode_j_per_token",
    "decode_j_per_token_lo", "decode_j_per_token_hi", "prefill_j_per_token", "energy_provenance", "energy_estimated",
    "gco2_per_million_tokens", "rounds", "dropped_rounds", "unreliable", "kv_cache_bytes_per_token", "parameter_bytes",
    "decode_smallest_effect", "prefill_smallest_effect", "grams_source", "power", "works", "warm_up",
]
# fmt: on


def disturbance(others_cores=0.0):
    return {"waited_share": 0.0, "steal_share": 0.0, "others_cores": others_cores, "dropped_share": 0.0}


def timing(ratio, lo, hi, prompt_tokens=8, quiet=True):
    work = {"prompt_tokens": prompt_tokens, "batch": 1, "output_tokens": 4, "blocks": 9, "dropped_blocks": 2}
    work |= {"timed_s": 8.0, "disturbance": disturbance(others_cores=1.5)}
    for phase in joules.PHASES:
        work |= {f"{phase}_ratio": ratio, f"{phase}_ratio_lo": lo, f"{phase}_ratio_hi": hi}
    times = {"prefill_ms": 24.0, "decode_ms_per_token": 2.0}
    return work | times | {"quiet": quiet, "dense": {name: ms / ratio for name, ms in times.items()}}


def test_an_a_a_test_never_finds_a_difference_and_states_the_smallest_it_could():
    figures = session.timing_figures([timing(0.99, 0.96, 0.998)], None, 10)  # by chance its interval excludes 1
    assert figures["decode_verdict"] == "no difference"
    assert figures["decode_smallest_effect"] == pytest.approx(0.04)
    assert (figures["rounds"], figures["dropped_rounds"], figures["unreliable"]) == (9, 2, False)


@pytest.mark.parametrize(
    ("ratio", "lo", "hi", "verdict"),
    [
        (0.90, 0.88, 0.92, "faster"),
        (1.10, 1.08, 1.12, "slower"),
        (1.03, 1.02, 1.04, "no difference"),  # clear of 1, but within what dense differs from itself
        (1.10, 0.99, 1.20, "no difference"),
    ],
)
def test_a_verdict_respects_the_interval_and_the_a_a_test(ratio, lo, hi, verdict):
    test = session.timing_figures([timing(1.0, 0.96, 1.03)], None, 10)
    figures = session.timing_figures([timing(ratio, lo, hi)], test, 10)
    assert figures["decode_verdict"] == figures["prefill_verdict"] == verdict
    assert figures["decode_smallest_effect"] == pytest.approx(0.04)


def test_a_wide_a_a_test_is_unreliable_itself_and_condemns_no_variant_that_was_timed_well():
    test = session.timing_figures([timing(1.0, 0.9, 1.05)], None, 3)
    figures = session.timing_figures([timing(0.5, 0.49, 0.51)], test, 3)
    assert test["unreliable_because"] == [
        "after 8.0 s the interval of decode is 15.0 % wide, the limit is 3 %: other processes kept 1.5 cores busy"
    ]
    assert figures["unreliable"] is False and figures["decode_verdict"] == "faster"
    # but what it cannot tell from nothing, no variant may claim
    assert session.timing_figures([timing(0.91, 0.90, 0.92)], test, 3)["decode_verdict"] == "no difference"


@pytest.mark.parametrize("ratio", [0.2, 0.7, 1.0, 1.5])
def test_the_width_of_an_interval_decides_whether_it_is_believed_and_its_value_never(ratio):
    test = session.timing_figures([timing(1.0, 0.99, 1.01)], None, 3)
    for half, unreliable in ((0.0149, False), (0.0151, True)):
        figures = session.timing_figures([timing(ratio, ratio - half, ratio + half)], test, 3)
        assert figures["unreliable"] is unreliable


def test_a_row_without_an_interval_is_unreliable():
    assert session.timing_figures([timing(1.0, math.nan, math.nan)], None, 3)["unreliable"]


def test_a_noisy_machine_makes_a_measurement_unreliable():
    figures = session.timing_figures([timing(1.0, 0.99, 1.01, quiet=False)], None, 10)
    assert figures["unreliable"] and "disturbed by other processes" in figures["unreliable_because"][0]


def test_a_work_that_the_a_a_test_lacks_is_refused():
    test = session.timing_figures([timing(1.0, 0.9, 1.05)], None, 10)
    with pytest.raises(InputError, match="no work of 16 prompt tokens"):
        session.timing_figures([timing(1.0, 0.9, 1.05, prompt_tokens=16)], test, 10)


def windows(dense_watts, variant_watts):
    return [
        {"phase": phase, "block": block, "arm": arm, "tokens": 100, "seconds": 2.0, "gpu_j": None, "ram_j": 40.0}
        | {"cpu_j": 2.0 * {"dense": dense_watts, "variant": variant_watts}[arm] * (1 + 0.001 * block)}
        for phase in joules.PHASES
        for block in range(3)
        for arm in ("variant", "dense", "dense", "variant")
    ]


def test_energy_figures_are_those_worked_out_by_hand():
    power = SimpleNamespace(grams_per_kwh=360.0, grams_source="a test", litres_per_kwh=1.8, litres_source="another")
    idle = [Window(1.0, 8.0, None, 20.0), Window(1.0, 10.0, None, 20.0)]
    counted = {"cpu": "rapl", "gpu": "none", "ram": "model"}
    equal, other = timing(1.0, 0.99, 1.01), timing(2.0, 1.99, 2.01)  # with counters, time does not enter
    test = session.metered_figures(equal, windows(50.0, 50.0), idle, counted, power, None)
    figures = session.metered_figures(other, windows(50.0, 40.0), idle, counted, power, test)
    assert figures["decode_j_per_token"] == pytest.approx(0.8, rel=0.01)
    assert figures["gco2_per_million_tokens"] == pytest.approx(80.0, rel=0.01)  # 0.8 MJ = 0.2222 kWh, times 360
    assert figures["litres_per_million_tokens"] == pytest.approx(0.4, rel=0.01)  # times 1.8
    assert figures["decode_j_verdict"] == "less" and test["decode_j_verdict"] == "no difference"
    assert figures["energy_estimated"] is False
    assert figures["power"]["components"] == ["cpu"] and figures["power"]["idle_drift"] == pytest.approx(0.25)
    assert figures["power"]["watts"]["cpu"] == pytest.approx({"idle_w": 9.0, "busy_w": 45.0}, rel=0.01)
    assert figures["power"]["token_w"] is None


MODELLED = {"cpu": "cpu_load_model", "gpu": "none", "ram": "model"}
POWER = SimpleNamespace(grams_per_kwh=360.0, grams_source="a test", litres_per_kwh=1.8, litres_source="another")
IDLE = [Window(1.0, 8.0, None, 20.0), Window(1.0, 10.0, None, 20.0)]


def test_estimated_energy_is_the_sessions_watts_times_a_variants_own_time():
    test = session.metered_figures(timing(1.0, 0.99, 1.01), windows(49.0, 49.0), IDLE, MODELLED, POWER, None)
    watts = test["power"]["token_w"]
    assert watts == pytest.approx(49.0 * 1.001 - 9.0)  # busy less idle
    assert test["decode_j_per_token"] == pytest.approx(watts * 0.002)  # 2 ms a token
    assert test["decode_j_verdict"] == "no difference" and test["energy_estimated"] is True
    figures = session.estimated_figures(timing(0.5, 0.48, 0.52), POWER, test)
    assert figures["power"] == test["power"] and figures["energy_provenance"] == MODELLED
    assert figures["decode_j_per_token_dense"] == pytest.approx(watts * 0.004)
    assert figures["decode_j_verdict"] == "less" and figures["energy_estimated"] is True
    assert figures["gco2_per_million_tokens"] == pytest.approx(watts * 0.002 * 1e6 / 3.6e6 * 360.0)


def test_noise_of_the_meter_makes_no_equal_model_different():
    """Of two copies of one model, the windows of the A/A test have read 20 W and 60 W."""
    noisy = windows(20.0, 60.0)
    test = session.metered_figures(timing(1.0, 0.99, 1.01), noisy, IDLE, MODELLED, POWER, None)
    assert test["decode_j_ratio"] == 1.0 and test["decode_j_per_token"] == test["decode_j_per_token_dense"]
    rows = [session.estimated_figures(timing(ratio, ratio - 0.01, ratio + 0.01), POWER, test) for ratio in (0.99, 1.01)]
    for row, ratio in zip(rows, (0.99, 1.01), strict=True):
        assert row["decode_j_per_token"] / row["decode_j_per_token_dense"] == pytest.approx(ratio)
        assert (row["decode_j_ratio_lo"], row["decode_j_ratio_hi"]) == (ratio - 0.01, ratio + 0.01)
        assert row["decode_j_verdict"] == "no difference"


def test_estimated_energy_without_the_watts_of_its_session_is_refused():
    old = {"energy_estimated": True, "power": {"components": ["cpu"]}, "energy_provenance": MODELLED}
    with pytest.raises(InputError, match="holds no watts for estimated energy .*measure the dense model again"):
        session.estimated_figures(timing(1.0, 0.99, 1.01), POWER, old)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder as dvc sees it: settings, a dense model, a pruned variant, a fingerprint."""
    root = tmp_path_factory.mktemp("study")
    yaml = YAML(typ="safe", pure=True)
    with open(root / "params.yaml", "w") as file:
        yaml.dump(yaml.load(ROOT / "params.yaml") | SETTINGS, file)
    tiny.dense_folder(root / "models/dense", tiny.gpt2())
    variant = variants.parse("random-50")
    plan = pruning.Plan(variant=variant, allocation="uniform", scope="blocks", checkpoint="last", seed=1)
    pruning.prune(root / "models/dense", root / "models/random-50", plan)
    run(root, "stages.device", "--out", "results/device.json")
    return root


def run(root, module, *arguments, ok=True):
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert (answer.returncode == 0) is ok, answer.stderr
    return answer


def measure(root, variant, *arguments, ok=True):
    places = ["--model", f"models/{variant}", "--dense", "models/dense", "--device", "results/device.json"]
    return run(root, "stages.efficiency", variant, *places, "--out", f"results/{variant}", *arguments, ok=ok)


@pytest.fixture(scope="module")
def measured(study):
    measure(study, "dense", "--energy", "results/energy/efficiency-dense.json")
    measure(study, "random-50", "--session", "results/dense/efficiency.json")
    return study


def test_the_stage_writes_what_the_contract_names(measured):
    for variant in ("dense", "random-50"):
        figures = read_json(measured / "results" / variant / "efficiency.json")
        assert not [key for key in CONTRACT if key not in figures]
        assert figures["variant"] == variant and figures["threads"] == 1 and figures["dtype"] == "float32"
        assert figures["device"] == read_json(measured / "results/device.json")["id"]
        assert [(work["prompt_tokens"], work["batch"]) for work in figures["works"]] == [(8, 1), (16, 1), (8, 2)]
    assert read_json(measured / "results/dense/efficiency.json")["decode_verdict"] == "no difference"
    assert read_json(measured / "results/energy/efficiency-dense.json")["seconds"] > 1


def test_absolute_figures_have_intervals_and_the_weights_a_hash(measured):
    dense, mask = (read_json(measured / f"results/{name}/efficiency.json") for name in ("dense", "random-50"))
    for figures in (dense, mask):
        for name in ("prefill_ms", "decode_ms_per_token", "peak_memory_bytes"):
            assert figures[f"{name}_lo"] < figures[name] < figures[f"{name}_hi"], name
        assert figures["peak_memory_bytes_hi"] < 1.5 * figures["peak_memory_bytes"]
    assert dense["weights_sha256"] == dense["dense_sha256"] == mask["dense_sha256"] != mask["weights_sha256"]


def test_sizes_and_work_are_those_of_the_variant(measured):
    dense = read_json(measured / "results/dense/efficiency.json")
    figures = read_json(measured / "results/random-50/efficiency.json")
    sparsity = read_json(measured / "models/random-50/sparsity.json")
    assert figures["packed_bytes"] == sparsity["packed_bytes"] < figures["dense_bytes"] == sparsity["dense_bytes"]
    assert figures["nonzero_parameters"] == sparsity["nonzero_parameters"]
    assert figures["macs_per_token"] == dense["macs_per_token"] == 2 * (12 * 16 * 16 + 2 * 16 * 9) + 40 * 16
    assert dense["packed_bytes"] == dense["dense_bytes"]


def test_every_figure_can_be_computed_again_from_the_readings(measured):
    figures = read_json(measured / "results/random-50/efficiency.json")
    rows = pyarrow.parquet.read_table(measured / "results/random-50/readings.parquet").to_pylist()
    seed = YAML(typ="safe", pure=True).load(measured / "params.yaml")["seed"]
    for work in figures["works"]:
        place = {name: work[name] for name in latency.Work._fields}
        mine = [row for row in rows if row["kind"] == "time" and place.items() <= row.items()]
        again = latency.summary(mine, seed)
        for key, value in again.items():
            if key != "dense":
                assert work[key] == pytest.approx(value), key
        assert work["disturbance"] == pytest.approx(session.disturbance.shares(mine))
    # energy: from the windows of the A/A test, where a machine has no counters; else from those of each variant
    metered = "dense" if figures["energy_estimated"] else "random-50"
    rows = pyarrow.parquet.read_table(measured / "results" / metered / "readings.parquet").to_pylist()
    idle = [Window(*(row[name] for name in Window._fields)) for row in rows if row["kind"] == "idle"]
    windows = [row for row in rows if row["kind"] == "energy"]
    power = joules.session_power(windows, idle, figures["energy_provenance"], figures["power"]["cores"])
    assert power["watts"]["cpu"] == pytest.approx(figures["power"]["watts"]["cpu"])
    assert len(idle) == 2 and np.isfinite(figures["power"]["idle_drift"])
    if figures["energy_estimated"]:
        seconds = figures["decode_ms_per_token"] / 1e3
        assert figures["decode_j_per_token"] == pytest.approx(power["token_w"] * seconds)
        assert figures["decode_j_ratio"] == figures["decode_ratio"]
        return
    for key, value in joules.summary(windows, joules.watts(idle), figures["energy_provenance"]).items():
        assert figures[key] == (value if value is None else pytest.approx(value)), key


def test_a_variant_without_its_a_a_test_is_refused(study):
    answer = measure(study, "random-50", ok=False)
    assert answer.stderr.splitlines()[-1] == (
        "error: --session is missing: a variant's verdict needs the A/A test of its dense model"
    )


def test_an_a_a_test_of_another_dense_model_is_refused(tmp_path):
    one, other = (tiny.dense_folder(tmp_path / name, tiny.gpt2(seed)) for seed, name in enumerate(("one", "other")))
    machine = {"id": "here"}
    session = {"device": "here", "dense_sha256": identity(one)}
    efficiency.check(SimpleNamespace(session="x.json", model=Path("a"), dense=one), session, machine)
    with pytest.raises(InputError, match=r"x\.json: measured with another dense model than .*other; measure that one"):
        efficiency.check(SimpleNamespace(session="x.json", model=Path("a"), dense=other), session, machine)


def test_an_a_a_test_of_another_machine_is_refused(measured, tmp_path):
    other = read_json(measured / "results/device.json") | {"id": "another"}
    (tmp_path / "device.json").write_text(json.dumps(other))
    shutil.copy(measured / "results/dense/efficiency.json", tmp_path)
    arguments = SimpleNamespace(session=tmp_path / "efficiency.json", model=Path("a"), dense=Path("b"))
    with pytest.raises(InputError, match="this is another; measure the dense model here first"):
        efficiency.check(arguments, read_json(tmp_path / "efficiency.json"), other)


def test_a_quantised_variant_is_measured_as_it_is_held_and_says_so(measured, tmp_path):
    dense, out = measured / "models/dense", tmp_path / "dense-int8"
    out.mkdir()
    facts = quantised.write(checkpoint.load(dense), dense, out, "dense-int8", identity(dense))
    settings, test = params.load(measured / "params.yaml"), read_json(measured / "results/dense/efficiency.json")
    figures, rows = session.measure(out, dense, settings.efficiency, settings.energy, settings.seed, test)
    assert (figures["runtime"], figures["dtype"]) == ("eager, int8", "float32")
    assert figures["packed_bytes"] == facts["bytes"] < figures["dense_bytes"] == test["dense_bytes"]
    assert figures["parameters"] == facts["parameters"] == test["parameters"]
    assert figures["parameter_bytes"] < test["parameter_bytes"] and figures["macs_per_token"] == test["macs_per_token"]
    assert figures["decode_ratio"] > 0 and any(row["kind"] == "time" for row in rows)


@pytest.mark.parametrize(
    ("variant", "rival", "other", "said"),
    [
        ("magnitude-50-recovered", [], "dense", "does the work of the dense model, so"),
        ("magnitude-50-int8", ["dense-int8"], "dense-int8", "does the work of dense-int8, so"),
        ("dense-int8-gptq", ["dense-int8"], "dense-int8", "does the work of dense-int8, so"),
        ("magnitude-50-int8", ["dense-int4"], None, None),
        ("depth-25-int8", ["dense-int8"], None, None),
    ],
)
def test_what_runs_the_kernels_of_another_row_is_noted_and_not_timed(
    tmp_path, monkeypatch, capsys, variant, rival, other, said
):
    synthetic.settings(tmp_path, prune={"further": [variant, *rival]}, calibrate={"samples": 4, "length": 8})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "session.json").write_text(json.dumps({"device": "here"}))
    (tmp_path / "device.json").write_text(json.dumps({"id": "here"}))
    monkeypatch.setattr(efficiency, "report", lambda *_: None)
    monkeypatch.setattr(session, "measure", lambda *_: ({}, []))
    tiny.dense_folder(tmp_path / "models/dense", tiny.gpt2())
    places = "--model models/x --dense models/dense --device device.json --session session.json --out results/x"
    efficiency.main([variant, "--only-other-work", *places.split()])
    noted = tmp_path / "results/x/efficiency.json"
    assert noted.exists() is (other is not None)
    if other:
        assert read_json(noted) == {"variant": variant, "device": "here", "same_work_as": other}
        assert f"{variant}: {said} it is not timed again" in capsys.readouterr().out
