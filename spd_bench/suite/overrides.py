"""Merges values of the command line over a suite; raises ConfigError for one that would have no effect."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from spd_bench.errors import ConfigError, printable, quoted
from spd_bench.suite.checks import dotted
from spd_bench.suite.forms import dig, long_form
from spd_bench.suite.yaml import Keys, Node, merge, setting

SEEDS = "--seeds "
OPTION = "--option "
DATASET = "--dataset "
MOST_SEEDS = 1000
DATA: Keys = ("data", "dataset")


def partial_tree(text: str) -> Node:
    """The partial suite of one text of the command line, with that option as the place of its values.

    text: "a.b=value", "--seeds 0,1,5-7", "--option name=value" (of the data set) or "--dataset NAME". Raises
    ConfigError for another form.
    """
    if text.startswith(SEEDS):
        return _seeds(text)
    if text.startswith(DATASET):
        name = text.removeprefix(DATASET)
        return _below(DATA, Node({"use": Node(name, text, text)}, text, text))
    if text.startswith(OPTION):
        tree = setting(text.removeprefix(OPTION), OPTION.strip())
        return _below(DATA, Node(tree.value, tree.place, tree.place))
    tree = long_form(setting(text))
    if "profiles" in tree.value:
        raise ConfigError(
            "the command line does not change profiles", where=tree.place, hint="set the value itself, without profiles"
        )
    return tree


def data_at(path: Path, name: str) -> Node:
    """The partial suite of `--data`: this data set, rooted at `path`."""
    where = f"--data {path}"
    return _below(DATA, Node({"use": Node(name, where, where), "root": Node(str(path), where, where)}, where, where))


def asked_dataset(given: Iterable[Node]) -> str | None:
    """Name of the data set on the command line; None if there is none."""
    names = [dig(tree.plain(), (*DATA, "use")) for tree in given]
    return next((name for name in reversed(names) if isinstance(name, str)), None)


def laid_over(tree: Node, given: Iterable[Node]) -> Node:
    """The tree with the partial suites of the command line merged over it; the last one wins."""
    for override in given:
        tree = merge(tree, override)
    return tree


def refuse_lost(tree: Node, given: Sequence[Node]) -> None:
    """Raises ConfigError for a value of the command line that the merged tree does not contain.

    The same key may be given again: the last --set, --option or --seeds wins. A path from --data is never replaced.
    """
    for position, override in enumerate(given):
        for keys, node in _leaves(override):
            found = _at(tree, keys)
            again = any(_at(later, keys) for later in given[position + 1 :]) and not node.place.startswith("--data ")
            if (found is None or found.plain() != node.plain()) and not again:
                rivals = [later.place for later in given[position + 1 :] if _touches(later, keys)]
                winner = rivals[0] if rivals else tree.nearest(keys).head
                raise ConfigError(
                    f"{dotted(keys)}: this value has no effect, because of {printable(winner) or 'another option'}",
                    where=node.place,
                    hint="leave one of the two out",
                )


def is_given(node: Node, given: Iterable[Node]) -> bool:
    """Whether any value of this part of a suite comes from the command line."""
    places = {tree.place for tree in given}
    return bool(places & {node.place, *node.places().values()})


def _below(keys: Keys, node: Node) -> Node:
    for key in reversed(keys):
        node = Node({key: node}, node.place, node.place)
    return Node(node.value, node.place)


def _leaves(node: Node, above: Keys = (), *, null: bool = False) -> Iterator[tuple[Keys, Node]]:
    """Every value that is not a mapping, as (keys, node); `null`, which removes values, only with the flag."""
    if isinstance(node.value, dict) and node.value:
        for key, child in node.value.items():
            yield from _leaves(child, (*above, key), null=null)
    elif null or node.value is not None:
        yield above, node


def _touches(tree: Node, keys: Keys) -> bool:
    """Whether a tree has the value, a value that contains it, or another value of the same component."""
    return any(
        other == keys[: len(other)] or other[:-1] == keys[: len(other) - 1] for other, _ in _leaves(tree, null=True)
    )


def _at(tree: Node, keys: Keys) -> Node | None:
    for key in keys:
        if not isinstance(tree.value, dict) or key not in tree.value:
            return None
        tree = tree.value[key]
    return tree


def _seeds(text: str) -> Node:
    """The partial tree of a list of seeds, such as "--seeds 0,1,5-7"."""
    numbers: list[int] = []
    for part in text.removeprefix(SEEDS).split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        ends = [int(end) for end in match.groups(match[1])] if match else [0, -1]
        if not 0 <= ends[1] - ends[0] < MOST_SEEDS:
            raise ConfigError(
                f"expected seeds and ranges of seeds with commas, found {quoted(part.strip())}",
                where=printable(text),
                hint=f"for example --seeds 0,1,2 or --seeds 0-4; at most {MOST_SEEDS} in a range",
            )
        numbers += range(ends[0], ends[1] + 1)
    return Node({"seeds": Node([Node(number, text, text) for number in numbers], text, text)}, text)
