"""How MLflow's page of a study opens: with the columns, order and charts that tell its rows apart.

By itself the page shows no figure, and its charts those whose names come first. What somebody shares of the page MLflow
keeps as a tag of the experiment, `mlflow.sharedViewState.<key>`, and a link with `?viewStateShareKey=<key>` opens it
(as MLflow 3.17.2 writes it; what another version doesn't know of it, it leaves out).
"""

import json

from prunelab import tasks
from prunelab.tasks import Headline

KEY = "prunelab"
TAG = f"mlflow.sharedViewState.{KEY}"
ROWS = "tags.`prunelab.kind` = 'variant'"  # the study's own run is no row
ALL, ONE = "prunelab-all", "prunelab-one"  # sections of charts


def state(settings) -> str:
    """The view of a study's rows, as JSON."""
    headline = tasks.headline(settings)
    shown = [*_metrics(headline.column, "rate"), "params.`method`", *_metrics("packed_bytes", "decode_ratio")]
    shown += [*_metrics("decode_j_per_token"), "tags.`deploy.state`"]
    found = {"searchFilter": ROWS, "orderByKey": f"metrics.`{headline.column}`", "orderByAsc": headline.lower_is_better}
    found |= {"selectedColumns": shown, "columnOrder": ["attributes.`Run Name`", *shown], "runsHiddenMode": "SHOW_ALL"}
    found["compareRunSections"] = [
        _section(ALL, "Every row", 1),
        _section(ONE, f"{headline.title} against its price", 3),
    ]
    return json.dumps(found | {"compareRunCharts": _charts(headline)})


def _metrics(*names: str) -> list[str]:
    return [f"metrics.`{name}`" for name in names]


def _charts(headline: Headline) -> list[dict]:
    along = {"selectedParams": ["method"], "showAllRuns": True}
    along["selectedMetrics"] = ["rate", headline.column, "packed_bytes", "decode_ratio"]
    charts = [_chart("PARALLEL", ALL, "every row", **along)]
    for name, metric in (("rate", "rate"), ("stored", "packed_bytes"), ("decoding", "decode_ratio")):
        axes = {"xaxis": {"key": metric, "type": "METRIC"}, "yaxis": {"key": headline.column, "type": "METRIC"}}
        charts.append(_chart("SCATTER", ONE, f"{headline.column} against {name}", **axes))
    return charts


def _section(identifier: str, name: str, columns: int) -> dict:
    common = {"uuid": identifier, "name": name, "display": True, "isReordered": False}
    return common | {"deleted": False, "isGenerated": False, "columns": columns, "cardHeight": 360}


def _chart(kind: str, section: str, name: str, **more) -> dict:
    common = {"type": kind, "uuid": name.replace(" ", "-"), "displayName": name, "metricSectionId": section}
    return common | {"deleted": False, "isGenerated": False, "runsCountToCompare": 500} | more
