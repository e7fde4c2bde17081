r"""Measure one variant beside its dense model: time, memory, energy, work, and the raw readings.

    python -m stages.efficiency dense --model models/s1/dense --dense models/s1/dense \
        --device results/device.json --out results/s1/dense
    python -m stages.efficiency wanda-50 --model models/s1/wanda-50 --dense models/s1/dense \
        --device results/device.json --session results/s1/dense/efficiency.json --out results/s1/wanda-50

The first is the A/A test of a session: dense beside a second copy of dense. Its interval is the smallest effect that
the session can tell from nothing, and the variants' verdicts (--session) respect it. Repeat it with `dvc repro -f`.
Writes efficiency.json and readings.parquet. One line of order matters: the variant is served before anything else is
loaded, because its peak memory is read from this process.
"""

import argparse
from pathlib import Path

from prunelab import errors, tasks
from prunelab.disk import files, places, turns
from prunelab.efficiency import device
from prunelab.energy import energy
from prunelab.recipes import variants
from prunelab.study import naming, params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.efficiency", description=__doc__.partition("\n")[0])
    naming.add_variant(parser, "its id, such as wanda-50, or dense for the A/A test")
    naming.add_seed(parser, "tag of the seed, such as s2, for @seed in the paths")
    parser.add_argument("--model", type=Path, required=True, help="folder of the variant")
    parser.add_argument("--dense", type=Path, required=True, help="folder of its dense model")
    parser.add_argument("--device", type=Path, required=True, help="fingerprint of this machine")
    parser.add_argument("--session", type=Path, help="efficiency.json of the dense model, the session's A/A test")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage itself used")
    parser.add_argument(
        "--only-other-work",
        action="store_true",
        help="note a variant that multiplies what another row multiplies (zeros or other values), do not time it",
    )
    arguments = naming.parse(parser, argv)
    places.check_shared(arguments.out, arguments.model, arguments.dense)
    name = f"efficiency-{arguments.variant}"
    with energy.stage_meter(name, arguments.energy):
        run(arguments)


def run(arguments) -> None:
    """Settings and files are checked before anything slow is imported."""
    settings, machine = params.load(), files.read_json(arguments.device)
    session = files.read_json(arguments.session) if arguments.session else None
    check(arguments, session, machine)
    if arguments.only_other_work and (other := same_work(settings, variants.parse(arguments.variant))):
        report_nothing(arguments, machine, other)
        return
    device.require(settings.efficiency.device)
    with turns.measuring():
        from prunelab.efficiency.session import measure, stored_files
        from prunelab.models.tensors import hash_of, identity

        task = tasks.of(settings.task)
        figures, rows = measure(
            arguments.model,
            arguments.dense,
            settings.efficiency,
            settings.energy,
            settings.seed,
            session,
            lambda tokens, batch: task.prompt(settings, arguments.dense, tokens, batch),
        )
    about = {"variant": arguments.variant, "device": machine["id"], "dense_sha256": identity(arguments.dense)}
    about["weights_sha256"] = hash_of(stored_files(arguments.model))
    report(arguments, {**about, **figures}, rows)


def check(arguments, session: dict | None, machine: dict) -> None:
    """A variant's verdict needs the A/A test of its dense model, from this machine."""
    if session is None and arguments.model.resolve() != arguments.dense.resolve():
        raise errors.InputError("--session is missing: a variant's verdict needs the A/A test of its dense model")
    if session is not None and session["device"] != machine["id"]:
        raise errors.InputError(
            f"{arguments.session}: measured on device {session['device']}, this is {machine['id']}; "
            "measure the dense model here first (dvc repro efficiency-dense)"
        )
    if session is not None and (known := session.get("dense_sha256")):
        from prunelab.models.tensors import identity

        if known != identity(arguments.dense):
            raise errors.InputError(
                f"{arguments.session}: measured with another dense model than {arguments.dense}; measure that one "
                "first (dvc repro efficiency-dense)"
            )


def same_work(settings, variant: variants.Variant) -> str | None:
    """The row whose work a variant of prune.further does again, zeros or other values: that one is timed."""
    return variants.DENSE if variant.does_the_work_of_dense else settings.timed_as(variant)


def report_nothing(arguments, machine: dict, other: str) -> None:
    """Both files of a variant that is not timed, because in eager torch it does what the model `other` does."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_readings(arguments.out, [])
    content = {"variant": arguments.variant, "device": machine["id"], "same_work_as": other}
    files.write_json(arguments.out / "efficiency.json", content)
    whose = "the dense model" if other == variants.DENSE else other
    print(f"{arguments.variant}: does the work of {whose}, so it is not timed again", flush=True)


def report(arguments, measured: dict, rows: list[dict]) -> None:
    """Write both files and say what was found."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_readings(arguments.out, rows)
    files.write_json(arguments.out / "efficiency.json", measured)
    print(
        f"{arguments.variant}: decode {measured['decode_ms_per_token']:.2f} ms a token, "
        f"{measured['decode_ratio']:.3f} of dense ({measured['decode_ratio_lo']:.3f} … "
        f"{measured['decode_ratio_hi']:.3f}): {measured['decode_verdict']}",
        flush=True,
    )


def write_readings(out: Path, rows: list[dict]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = pyarrow.table({key: [row.get(key) for row in rows] for key in columns})
    with files.whole_file(out / "readings.parquet") as partial:
        pyarrow.parquet.write_table(table, partial)


if __name__ == "__main__":
    errors.exit_cleanly(main)
