"""What there is to do: the stages and their order from DVC, and those whose inputs or outputs changed."""

from collections.abc import Iterable
from graphlib import TopologicalSorter
from typing import NamedTuple

from prunelab.errors import InputError, nearest


class Graph(NamedTuple):
    needs: dict[str, set[str]]  # stage → the stages whose outputs it reads
    probes: set[str]  # stages that run always and read no other stage's output: of machine and files
    last: set[str]  # those that run always, too, but behind others: the mirror


def towards(graph: Graph, targets: Iterable[str]) -> Graph:
    """The part of `graph` that is needed for `targets`, which are stages or kinds of them (`prune`: all of its stages).

    Raises InputError for one that is not there.
    """
    kinds: dict[str, set[str]] = {}
    for name in graph.needs:
        kinds.setdefault(name.partition("@")[0], set()).add(name)
    wanted: set[str] = set()
    for target in targets:
        if target not in graph.needs and target not in kinds:
            known = sorted({*kinds, *graph.needs})
            raise InputError(
                f"targets: there is no stage {target!r}{nearest(target, known)}; kinds of stage here: "
                f"{', '.join(sorted(kinds))}"
            )
        wanted |= {target} if target in graph.needs else kinds[target]
    while more := {other for name in wanted for other in graph.needs[name]} - wanted:
        wanted |= more
    needs = {name: others for name, others in graph.needs.items() if name in wanted}
    return Graph(needs, graph.probes & wanted, graph.last & wanted)


def in_order(graph: Graph, names: Iterable[str]) -> list[str]:
    """The stages `names`, each behind those that it needs."""
    sorter = TopologicalSorter(graph.needs)
    wanted = set(names)
    return [name for name in sorter.static_order() if name in wanted]


def look(root: str = ".") -> tuple[Graph, set[str]]:
    """The graph in the dvc.yaml of `root`, and what of it is to do: the stages that DVC finds changed, and all that
    read their outputs, directly or not.

    A later one may still turn out unchanged when its turn comes; DVC then skips it.
    """
    from dvc.repo import Repo

    with Repo(root) as repo:  # one for both: reading dvc.yaml and dvc.lock takes as long as comparing
        graph = _graph(repo)
        found = {
            name for name, reasons in repo.status().items() if name in graph.needs and reasons != ["always changed"]
        }
    while more := {name for name, others in graph.needs.items() if others & found} - found:
        found |= more
    return graph, found


def read(root: str = ".") -> Graph:
    """The graph alone."""
    from dvc.repo import Repo

    with Repo(root) as repo:
        return _graph(repo)


def _graph(repo) -> Graph:
    graph = repo.index.graph
    # `addressing` would depend on the current directory. A data source (*.dvc) has no command and no name.
    stages = {stage: stage.name for stage in graph if stage.is_data_source is False and stage.cmd}
    needs = {
        name: {stages[other] for other in graph.successors(stage) if other in stages} for stage, name in stages.items()
    }
    always = {name for stage, name in stages.items() if stage.always_changed}
    return Graph(needs, {name for name in always if not needs[name]}, {name for name in always if needs[name]})
