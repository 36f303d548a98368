"""Loads a suite: finds the file, merges what it extends and the overrides, and checks the result.

Order of precedence, later wins: the file that `extends` names, the file, a profile, the command line. Options of the
command line do not take each other's values away: that is refused (`overrides.refuse_lost`).
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from spd_bench import registry
from spd_bench.errors import ConfigError, DataError, did_you_mean, quoted
from spd_bench.suite.checks import check_options, problems_of, profile_problems, refuse
from spd_bench.suite.forms import dig, long_form, names, with_profile, with_step
from spd_bench.suite.overrides import DATA, asked_dataset, data_at, is_given, laid_over, partial_tree, refuse_lost
from spd_bench.suite.schema import Suite
from spd_bench.suite.shipped import shipped_files
from spd_bench.suite.yaml import Node, kind, load_yaml, merge

SWEEP = "sweep_"
"""Prefix of the file names of shipped sweeps, which are in the folder of the suites."""


def shipped() -> dict[str, Path]:
    """Name → file of every suite that comes with this distribution."""
    return {path.stem: path for path in shipped_files() if not path.stem.startswith(SWEEP)}


def shipped_sweeps() -> dict[str, Path]:
    """Name → file of every sweep that comes with this distribution."""
    found = (path for path in shipped_files() if path.stem.startswith(SWEEP))
    return {path.stem.removeprefix(SWEEP): _short(path) for path in found}


def find_suite(path_or_name: str | Path) -> Path:
    """The suite's file: this path, else a shipped suite (`name`, `name.yaml` or `suites/name.yaml`).

    Raises ConfigError if there is neither.
    """
    path = Path(path_or_name)
    if _is_file(path):
        return path
    try:
        return _find_shipped(path)
    except ConfigError:
        if not _exists(path):
            raise
    found = "a folder" if path.is_dir() else "a pipe or a device"
    raise ConfigError(f"expected a suite's file, found {found}", where=str(path))


def _find_shipped(path: Path) -> Path:
    name = path.name.removesuffix(".yaml")
    known = shipped()
    if path.parent in (Path(), Path("suites")) and name in known:
        return _short(known[name])
    raise ConfigError(f"no suite {quoted(path)}, as a file or among those shipped", hint=did_you_mean(name, known))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def load_suite(
    path_or_name: str | Path,
    *,
    profile: str | None = None,
    sets: Iterable[str] = (),
    data: str | Path | None = None,
    step: str | None = None,
) -> Suite:
    """A checked suite.

    profile: the suite's profile to apply. step: the build-order step to return as a suite. data: file or folder of
    RGB-D data, read by the data set that `sets` names, else by the one that recognises its layout, the suite's own
    first. sets: texts of the command line (`overrides.partial_tree`); options of the data set apply to that at `data`.

    Raises ConfigError listing every problem, one a line, also those of the other profiles, and for a value in `sets`
    that would have no effect.
    """
    path = find_suite(path_or_name)
    tree = _inherited(path)
    known = names(tree, "profiles")
    if profile is not None and profile not in known:
        raise ConfigError(f"unknown profile {quoted(profile)}", where=str(path), hint=did_you_mean(profile, known))
    # names that several plugins share are checked after the command line's values are merged
    problems = problems_of(tree, shared=False)
    problems += [problem for name in known for problem in profile_problems(tree, name, shared=False)]
    tree = with_profile(tree, profile)
    given = [partial_tree(text) for text in sets]
    if data is not None:
        given = [_data(data, tree, asked_dataset(given)), *given]
    tree = laid_over(tree, given)
    refuse_lost(tree, given)
    if step is not None:
        # a step's own values do not override the command line either
        tree = laid_over(with_step(tree, step), [part for part in given if "steps" not in part.value])
    refuse(problems + problems_of(tree))
    suite = Suite.read(tree, profile)
    _check_data_options(suite, given)
    return suite


def _data(data: str | Path, tree: Node, asked: str | None) -> Node:
    """The partial suite with the data set at `data`: the asked one, else the one that recognises the layout."""
    if not str(data):  # an unset shell variable; Path("") would mean the working directory
        raise ConfigError("expected a path, found nothing", where="--data")
    path, where = Path(data), f"--data {data}"
    own = dig(tree.plain(), (*DATA, "use"))
    _refuse_absent(path, where)
    return data_at(path, asked or recognised(path, preferred=own, where=where, hint="choose with --dataset NAME"))


def _check_data_options(suite: Suite, given: list[Node]) -> None:
    """Raises ConfigError for an option of the command line that its data set does not have."""
    for keys, choice in ((DATA, suite.data.dataset), (("data", "test"), suite.data.test)):
        if choice is not None and is_given(suite.source.nearest(keys), given):
            check_options(choice, "dataset", suite=suite, keys=keys)


def _inherited(path: Path, below: tuple[Path, ...] = ()) -> Node:
    """The tree of a suite file merged over the files that it extends; `below`: files that led here."""
    tree = long_form(load_yaml(path))
    extends = tree.value.get("extends")
    if extends is None or extends.value is None:
        return tree
    chain = (*below, path)
    parent = _parent(extends, path)
    if parent.resolve() in [file.resolve() for file in chain]:
        circle = " → ".join(str(file) for file in (*chain, parent))
        raise ConfigError(f"extends goes in a circle: {circle}", where=extends.place)
    inherited = _inherited(parent, chain)
    own = {key: node for key, node in tree.value.items() if key != "extends"}
    passed_on = {key: node for key, node in inherited.value.items() if key not in ("suite", "description")}
    return merge(Node(passed_on, tree.place), Node(own, tree.place))


def _parent(extends: Node, path: Path) -> Path:
    """The file that `extends` names: in the folder of this file or below it, else a shipped suite."""
    text = extends.value
    if not isinstance(text, str):
        raise ConfigError(f"extends: should be the name of a suite, found {kind(text)}", where=extends.place)
    folder = path.parent
    for name in (text, f"{text}.yaml"):
        if _is_file(folder / name):
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ConfigError(f"extends: {quoted(text)} leaves the folder of this suite", where=extends.place)
            return folder / name
    try:
        return _find_shipped(Path(text))
    except ConfigError as error:
        raise ConfigError(f"extends: {error.message}", where=extends.place, hint=error.hint) from error


def recognised(path: Path, *, preferred: str | None = None, where: str, hint: str) -> str:
    """Name of the data set that recognises this layout, `preferred` first.

    Raises DataError if `path` does not exist, or if no or several data sets recognise it.
    """
    _refuse_absent(path, where)
    able = [name for name in registry.names("dataset") if _recognises(name, path)]
    able = [name for name in able if name.rpartition(":")[2] not in able or ":" not in name]  # a plugin's, of our name
    special = [name for name in able if not getattr(registry.load("dataset", name), "generic", False)]
    able = special or able
    if preferred in able:
        able = [preferred]
    if len(able) != 1:
        raise DataError(
            f"several data sets have this layout: {', '.join(able)}" if able else "no data set has this layout",
            where=where,
            hint=f"{_advice(path)}known layouts: {', '.join(registry.names('dataset'))}; {hint}",
        )
    return able[0]


def _advice(path: Path) -> str:
    """What data sets say of a path that no data set recognises, with a space behind it."""
    said = []
    for name in registry.names("dataset"):
        with suppress(registry.PluginError, AttributeError):  # a class that is no DepthDataset has no advice
            said.append(registry.load("dataset", name).advise(path))
    return "".join(f"{text}; " for text in said if text)


def _refuse_absent(path: Path, where: str) -> None:
    if not path.exists():
        raise DataError("no such file or folder", where=where)
    if not path.is_file() and not path.is_dir():  # opening a pipe would wait for ever
        raise DataError("expected a file or folder, found a pipe or a device", where=where)


def _recognises(name: str, path: Path) -> bool:
    """Whether a data set recognises this layout; False if it cannot be imported."""
    try:
        return bool(registry.load("dataset", name).recognise(path))
    except registry.PluginError:
        return False


def _short(path: Path) -> Path:
    """The path relative to the working directory, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
