"""A build order (§10.3): the results of each step's checks, and the table, page and pictures that show them."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from spd_bench.model.compose import ComposedModel
from spd_bench.run.build_order import gates
from spd_bench.run.build_order.gates import CheckResult, Evidence
from spd_bench.run.outcome import Outcome
from spd_bench.run.planning.choose import Chosen
from spd_bench.run.runner import Runner
from spd_bench.store import files

HEADERS = ("step", "check", "expected", "found", "")


@dataclass(frozen=True)
class StepResult:
    """The results of one step."""

    name: str
    """Name of the step."""
    description: str
    """What the suite says of it."""
    findings: tuple[CheckResult, ...]
    """Its checks, in order."""
    failure: str = ""
    """Why its model could not be trained, "" if it could."""

    @property
    def passed(self) -> bool:
        """Whether the next step may start."""
        return not self.failure and all(finding.passed for finding in self.findings)

    def line(self) -> str:
        """A line for the terminal: passed, or which checks failed and why."""
        if self.passed:
            return f"step {self.name}: passed ({len(self.findings)} checks)"
        broken = [f"{f.check}: expected {f.expected}, found {f.found}" for f in self.findings if not f.passed]
        return f"step {self.name}: FAILED: {self.failure or '; '.join(broken)}"


class BuildOrder:
    """Collects the results of a suite's steps and writes their report."""

    def __init__(self, chosen: Chosen, provenance: Mapping[str, str], stem: Path) -> None:
        """stem: path of the report's files, without a suffix."""
        self.chosen = chosen
        self.provenance = provenance
        self.stem = stem
        self.results: list[StepResult] = []
        self.captions: list[str] = []

    @property
    def passed(self) -> bool:
        """Whether every step was reached and passed."""
        return len(self.results) == len(self.chosen.steps) and all(result.passed for result in self.results)

    def examine(self, name: str, runner: Runner, outcomes: Sequence[Outcome]) -> StepResult:
        """The results of a step, from its first seed's model and the means of its scores over seeds."""
        step, experiment = self.chosen.suite.steps[name], runner.experiment
        if not self.captions:
            self.captions = _captions(runner)
        failures = [f"{outcome.job.name}: {outcome.failure}" for outcome in outcomes if outcome.failure]
        if failures:
            self.results.append(StepResult(name, step.description, (), "; ".join(failures)))
            return self.results[-1]
        model = cast(ComposedModel, runner.model(experiment.jobs[0], trained=step.train))
        probe = runner.inputs.probe(model)
        primary = experiment.suite.report.primary
        metric = next(metric for metric in experiment.metrics if metric.name == primary.metric)
        means = _means(outcomes)
        evidence = Evidence(
            model=model,
            features=probe.features,
            xy_BK2=probe.xy_BK2,
            image_size=experiment.suite.data.image_size,
            primary=(metric, primary.k),
            scores=means.get(experiment.compositions[0].name, {}),
            baselines={name: scores[f"{primary.metric}@{primary.k}"] for name, scores in means.items()},
        )
        if step.checks.picture is not None:
            components = gates.principal_components(model.prepare(probe.features).pyramid.l3.map_BHWC.detach())
            files.write_bytes(self._picture(name), gates.picture(components, probe.images_B3HW))
        self.results.append(StepResult(name, step.description, tuple(gates.examine(step.checks, evidence))))
        return self.results[-1]

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """One row per check, and one per step that was not reached."""
        rows = []
        for result in self.results:
            rows += [
                (result.name, f.check, f.expected, f.found, "ok" if f.passed else "FAILED") for f in result.findings
            ]
            if result.failure:
                rows.append((result.name, "training", "a finished run", result.failure, "FAILED"))
        reached = {result.name for result in self.results}
        return rows + [(name, "", "", "", "not reached") for name in self.chosen.steps if name not in reached]

    def table(self, form: str = "simple") -> str:
        """Captions and rows as text; form: a format of tabulate."""
        from tabulate import tabulate

        body = tabulate(self.rows(), headers=HEADERS, tablefmt=form, disable_numparse=True)
        return "\n".join([*self.captions, "", body, "", self.verdict()])

    def verdict(self) -> str:
        """A line that says whether all steps passed."""
        if self.passed:
            return f"all {len(self.results)} steps passed"
        return self.results[-1].line() if self.results else "no step was reached"

    def write(self) -> Path:
        """Writes Markdown, JSON and a self-contained page beside the pictures; returns the page."""
        files.write_text(self.stem.with_suffix(".md"), self.table("pipe") + "\n")
        files.write_json(
            self.stem.with_suffix(".json"),
            {
                "suite": self.chosen.suite.suite,
                "captions": self.captions,
                "passed": self.passed,
                "steps": [asdict(result) | {"passed": result.passed} for result in self.results],
                "provenance": dict(self.provenance),
            },
        )
        page = self.stem.with_suffix(".html")
        files.write_text(page, self._page())
        return page

    def _page(self) -> str:
        from jinja2 import Environment, StrictUndefined

        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        text = (resources.files(__package__) / "build_order.html.j2").read_text(encoding="utf-8")
        pictures = [
            (name, self._picture(name)) for name, step in self.chosen.suite.steps.items() if step.checks.picture
        ]
        return environment.from_string(text).render(
            suite=self.chosen.suite.suite,
            captions=self.captions,
            verdict=self.verdict(),
            headers=HEADERS,
            rows=self.rows(),
            pictures=[(name, _data_uri(path)) for name, path in pictures if path.exists()],
            provenance=self.provenance,
        )

    def _picture(self, name: str) -> Path:
        return self.stem.with_name(f"{self.stem.name}.{name}.png")


def _captions(runner: Runner) -> list[str]:
    experiment = runner.experiment
    stand_ins = experiment.stand_ins(experiment.compositions[0])
    return [
        *(
            [f"STAND-INS: {'; '.join(stand_ins)}: thresholds met on them say nothing about the paper's."]
            if stand_ins
            else []
        ),
        runner.inputs.about_data,
        f"{experiment.judge.caption}",
    ]


def _means(outcomes: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """Composition → "metric@K" → mean over seeds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        assert outcome.scores is not None
        found.setdefault(outcome.job.composition.name, []).append(outcome.scores["scores"])
    return {
        name: {cell: sum(scores[cell] for scores in runs) / len(runs) for cell in runs[0]}
        for name, runs in found.items()
    }


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
