"""The section `deploy` of params.yaml: what a model to deploy must keep to, and what makes one better than another."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from prunelab.study.fields import NotNegative, Positive, Section, distinct

Figure = Literal[
    "stored_mb", "memory_mb", "prefill_ms", "decode_ms_per_token", "joules_per_token", "worse_percent",
    "accuracy_drop_points", "right_probability_drop_points",
]  # fmt: skip
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


def _known_figure(name):
    if name == "loss_increase_percent":
        raise ValueError(f"{name!r} is called worse_percent now: of the task's headline figure, in percent of dense's")
    return name


class Deploy(Section):
    """Budgets (None: none), what is minimised, a variant that overrules both, and other machines' results."""

    stored_mb: Positive | None
    memory_mb: Positive | None
    prefill_ms: Positive | None
    decode_ms_per_token: Positive | None
    joules_per_token: Positive | None
    worse_percent: NotNegative | None
    accuracy_drop_points: NotNegative | None
    right_probability_drop_points: NotNegative | None
    minimise: Annotated[
        list[Annotated[Figure, BeforeValidator(_known_figure)]], Field(min_length=1), AfterValidator(distinct)
    ]
    variant: str | None
    devices: dict[Name, Annotated[str, Field(min_length=1)]]

    @property
    def budgets(self) -> dict[str, float]:
        """The budgets that there are, by the figure's name."""
        limits = {name: getattr(self, name) for name in Figure.__args__}
        return {name: limit for name, limit in limits.items() if limit is not None}
