"""Fine-tune one pruned variant and write it as a variant of its own.

    python -m stages.recover mlp-width-50-recovered --model models/mlp-width-50 --dense models/dense \
        --data data/fetched --out models/mlp-width-50-recovered
"""

import argparse
from pathlib import Path

from prunelab.disk import places
from prunelab.energy import energy
from prunelab.errors import exit_cleanly
from prunelab.study import params


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.recover", description=__doc__.partition("\n")[0])
    parser.add_argument("variant", help="the id of the result, such as mlp-width-50-recovered")
    parser.add_argument("--model", type=Path, required=True, help="folder of the pruned variant")
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model, the teacher")
    parser.add_argument("--data", type=Path, required=True, help="folder that the stage fetch wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recovered variant")
    parser.add_argument("--seed", help="a replica's tag, such as s2; without it the study's own seed")
    parser.add_argument("--energy", type=Path, help="JSON file that books what this stage used")
    arguments = parser.parse_args(argv)
    places.check_folder(arguments.out, arguments.model, arguments.dense, arguments.data)
    settings = params.load()
    with energy.stage_meter(
        f"recover-{arguments.variant}", arguments.energy, long=True, country=settings.energy.country
    ):
        run(arguments, settings)


def run(arguments, settings) -> None:
    """The work, behind the imports that cost seconds."""
    import torch

    from prunelab.disk import files
    from prunelab.models import loading
    from prunelab.recovery import recovery
    from prunelab.training import training

    wanted, context = settings.recover, settings.train.context
    tokenizer = loading.tokenizer_of(arguments.dense, arguments.dense)
    texts = {part: files.read_text(arguments.data / "text" / f"{part}.txt") for part in ("train", "validation")}
    tokens = {part: training.encode(tokenizer, text) for part, text in texts.items()}
    held_out = training.validation_windows(tokens["validation"], context, wanted.validation_windows)
    plan = recovery.Plan(
        tokens=wanted.tokens,
        source=wanted.source,
        parameters=wanted.parameters,
        lora_rank=wanted.lora_rank,
        learning_rate=wanted.learning_rate,
        weight_decay=wanted.weight_decay,
        batch_size=wanted.batch_size,
        context=context,
        seed=settings.seed_of(arguments.seed),
    )
    validation = torch.stack([window["input_ids"] for window in held_out])
    record = recovery.recover(
        arguments.model, arguments.dense, arguments.out, arguments.variant, plan, tokens["train"], validation
    )
    facts = record["recovery"]
    print(
        f"{arguments.variant}: validation loss {facts['validation_loss_before']:.4f} → "
        f"{facts['validation_loss_after']:.4f} nats a token after {facts['tokens']:,} tokens from {plan.source}"
    )


if __name__ == "__main__":
    exit_cleanly(main)
