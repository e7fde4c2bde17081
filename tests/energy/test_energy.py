import json
import math
import sys
import time
from types import SimpleNamespace

import pytest

from prunelab.energy import energy

MODELLED = {"cpu": "cpu_load_model", "gpu": "none", "ram": "model"}


@pytest.fixture
def rapl(tmp_path):
    """A machine with two counted packages; returns a function that lets package 0 and 1 spend joules."""
    spent = {}

    def spend(**joules):
        for name, joule in joules.items():
            folder = tmp_path / "sys/class/powercap" / name.replace("p", "intel-rapl:")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "max_energy_range_uj").write_text("262143328850\n")
            spent[name] = (spent.get(name, 0) + round(joule * 1e6)) % 262143328850
            (folder / "energy_uj").write_text(f"{spent[name]}\n")

    spend(p0=100.0, p1=262143.0)
    core = tmp_path / "sys/class/powercap/intel-rapl:0:0"  # a part of package 0: counting it would count it twice
    core.mkdir()
    (core / "energy_uj").write_text("5\n")
    (core / "max_energy_range_uj").write_text("262143328850\n")
    return tmp_path, spend


def test_a_stage_books_what_the_counters_say_a_wrapped_one_included(rapl, tmp_path):
    root, spend = rapl
    with energy.stage_meter("prune-magnitude-50", tmp_path / "e.json", root=root):
        spend(p0=7.5, p1=2.0)  # package 1 passes its largest value
    booking = json.loads((tmp_path / "e.json").read_text())
    assert booking["cpu_j"] == pytest.approx(9.5, abs=1e-5)
    assert (booking["gpu_j"], booking["ram_j"]) == (None, None)
    assert booking["meter"] == "counters" and booking["provenance"] == {"cpu": "rapl"}


def test_without_counters_a_stage_books_its_time_and_no_joules(tmp_path):
    with energy.stage_meter("prune-magnitude-50", tmp_path / "e.json", root=tmp_path):
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    booking = json.loads((tmp_path / "e.json").read_text())
    assert (booking["cpu_j"], booking["gpu_j"], booking["ram_j"], booking["cpu_share"]) == (None, None, None, None)
    assert booking["meter"] == "time" and booking["provenance"] == {}
    # The system counts a process's time in hundredths of a second, and the last one need not be full.
    assert 0.2 - 0.021 <= booking["cpu_seconds"] <= booking["seconds"] + 0.021


def test_a_failing_stage_books_nothing_and_fails_as_before(tmp_path):
    for long in (False, True):
        with pytest.raises(ZeroDivisionError):
            with energy.stage_meter("train", tmp_path / "e.json", long=long, country="DEU"):
                1 / 0  # noqa: B018
    assert not (tmp_path / "e.json").exists()


def test_without_a_file_nothing_is_booked():
    with energy.stage_meter("train", None, long=True):
        pass


def test_a_long_stage_is_read_by_codecarbon_from_its_beginning(tmp_path):
    with energy.stage_meter("train", tmp_path / "e.json", long=True, country="DEU"):
        time.sleep(4)
    booking = json.loads((tmp_path / "e.json").read_text())
    assert booking["meter"] == "codecarbon" and booking["provenance"]["ram"] in ("model", "pmic")
    assert booking["cpu_j"] > 0 and booking["ram_j"] > 0
    # The meter starts late; memory's power is a constant, so the joules tell which time they cover.
    watts = booking["ram_j"] / booking["seconds"]
    assert watts == pytest.approx(round(watts), rel=0.05)


def test_only_like_things_are_summed():
    assert energy.headline_components({"cpu": "rapl", "gpu": "nvml_counter", "ram": "model"}) == ["cpu", "gpu"]
    assert energy.headline_components({"cpu": "cpu_load_model", "gpu": "nvml_counter", "ram": "model"}) == ["gpu"]
    assert energy.headline_components(MODELLED) == ["cpu"]
    assert energy.is_estimated(MODELLED) and energy.is_estimated({"cpu": "constant", "ram": "model"})
    assert not energy.is_estimated({"cpu": "constant", "gpu": "nvml_counter", "ram": "model"})


def test_the_share_of_the_machines_work_is_own_time_over_all_cores_time(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  1000 0 500 9000 10 0 0 0 0 0\n")
    with energy.stage_meter("prune-magnitude-50", tmp_path / "e.json", root=tmp_path):
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        (tmp_path / "proc/stat").write_text("cpu  1060 0 540 9100 10 0 0 0 0 0\n")  # a second of somebody's work
    assert json.loads((tmp_path / "e.json").read_text())["cpu_share"] == pytest.approx(0.1, abs=0.03)


def test_time_is_priced_by_load_between_idle_and_busy_watts():
    session = {"components": ["cpu"], "cores": 4, "watts": {"cpu": {"idle_w": 10.0, "busy_w": 50.0}}}
    # 20 s with 40 core seconds of 80: half way between 10 and 50 W
    booking = {"seconds": 20.0, "cpu_seconds": 40.0, "cpu_share": None, "cpu_j": None, "provenance": {}}
    assert energy.joules(booking, session) == pytest.approx(600.0)
    assert energy.joules(booking | {"cpu_seconds": 400.0}, session) == pytest.approx(1000.0)  # never above busy


def test_where_a_token_is_estimated_above_idle_the_stages_are_too():
    session = {
        "components": ["cpu"],
        "cores": 4,
        "watts": {"cpu": {"idle_w": 10.0, "busy_w": 50.0}},
        "above_idle": True,
    }
    booking = {"seconds": 20.0, "cpu_seconds": 40.0, "cpu_share": 0.5, "cpu_j": None, "provenance": {}}
    assert energy.joules(booking, session) == pytest.approx(400.0)  # half of the way up, for 20 s
    assert energy.joules(booking | {"cpu_j": 700.0}, session) == pytest.approx(250.0)  # half of what is above 200 J
    assert energy.joules(booking | {"cpu_j": 150.0}, session) == 0.0  # it read less than idling costs


def test_what_was_read_is_taken_by_the_stages_share_of_the_work():
    session = {"components": ["cpu", "gpu"], "cores": 4, "watts": {}}
    booking = {"seconds": 1.0, "cpu_seconds": 1.0, "cpu_share": 0.25, "cpu_j": 80.0, "gpu_j": 300.0, "provenance": {}}
    assert energy.joules(booking, session) == pytest.approx(320.0)
    assert energy.joules(booking | {"gpu_j": None}, session) is None


def test_the_bill_names_what_it_could_not_price_and_whether_it_is_estimated():
    session = {"components": ["gpu"], "cores": 4, "watts": {}}
    read = {"seconds": 1, "cpu_seconds": 1, "cpu_share": 1, "gpu_j": 500.0, "provenance": {"gpu": "nvml_counter"}}
    timed = {"seconds": 1, "cpu_seconds": 1, "cpu_share": 1, "gpu_j": None, "provenance": {}}
    bill = energy.bill({"train": read, "fetch": timed}, session)
    assert bill == {
        "stages": {"train": 500.0, "fetch": None},
        "total_j": 500.0,
        "unpriced": ["fetch"],
        "estimated": True,
    }
    assert energy.bill({"train": read}, session)["estimated"] is False


@pytest.mark.parametrize(
    ("named", "read"), [(None, "01"), ("", "01"), ("1", "1"), ("GPU-bbbb", "1"), ("0,1", "01"), ("-1", "")]
)
def test_a_worker_bills_the_gpus_that_it_may_use(tmp_path, monkeypatch, named, read):
    """Beside another worker's, on a machine with several. CodeCarbon goes by the same variable."""
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: ("GPU-aaaa-1", "GPU-bbbb-2")[handle],
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 1000 * (handle + 5),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    found = energy.read_counters(tmp_path)
    assert found.get("gpu", {}) == {index: (5.0 + int(index), math.inf) for index in read}


def test_grams_are_kilowatt_hours_times_the_stated_intensity():
    assert energy.grams(7.2e6, 344.0) == pytest.approx(688.0)


def test_break_even_is_the_study_over_the_saving():
    assert energy.break_even(1000.0, (0.5, 0.4, 0.8)) == pytest.approx((2000.0, 1250.0, 2500.0))


@pytest.mark.parametrize(
    ("saving", "verdict"),
    [
        ((0.5, 0.0, 1.0), "less"),
        ((0.5, -0.1, 1.0), "less"),
        ((-0.5, -0.6, -0.4), "less"),
        ((0.5, math.nan, math.nan), "less"),
        ((0.5, 0.4, 0.8), "no difference"),
        ((0.5, 0.4, 0.8), "more"),
    ],
)
def test_a_variant_that_may_save_nothing_never_repays(saving, verdict):
    assert energy.break_even(1000.0, saving, verdict) is None
