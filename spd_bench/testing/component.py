"""What holds for a component of every slot."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from spd_bench import registry
from spd_bench.api import ComponentConfig
from spd_bench.testing.checks import fail, require


class ComponentContract:
    """For every slot: a class with slot, version, docstring and a strict, described `Config`."""

    component: type[Any]
    """The class under test."""
    options: Mapping[str, Any] = {}
    """Options to construct it with."""

    @property
    def config(self) -> Any:
        """The options, validated."""
        return self.component.Config(**self.options)

    def test_says_what_it_is(self) -> None:
        """A known slot, a whole version number and a docstring of its own: `spd-bench describe` shows them."""
        name = self.component.__name__
        slot, version = getattr(self.component, "slot", None), getattr(self.component, "version", None)
        require(slot in registry.SLOTS, f"{name}.slot is {slot!r}, not one of {', '.join(registry.SLOTS)}")
        require(type(version) is int and version >= 1, f"{name}.version is {version!r}, not a whole number from 1")
        require(isinstance(self.component.stand_in, str), f"{name}.stand_in is not a string")
        require(bool(inspect.cleandoc(self.component.__doc__ or "")), f"{name} has no docstring")

    def test_config_is_strict(self) -> None:
        """Unknown keys are refused and values never change: a typing error must not train the default."""
        config = self.component.Config
        require(issubclass(config, ComponentConfig), f"{config.__qualname__} does not derive from ComponentConfig")
        try:
            config(**{**self.options, "no_such_option": 1})
        except ValidationError as error:
            found = [problem["type"] for problem in error.errors()]
            require("extra_forbidden" in found, f"an unknown key was met with {found}")
        else:
            fail(f"{config.__qualname__} takes the unknown option no_such_option")
        require(bool(config.model_config.get("frozen")), f"{config.__qualname__} is not frozen")

    def test_every_option_is_described(self) -> None:
        """A string below each option says what it means."""
        fields = self.component.Config.model_fields
        bare = [name for name, field in fields.items() if not (field.description or "").strip()]
        require(not bare, f"options without a docstring below them: {', '.join(bare)}")
        unknown = self.component.places - fields.keys()
        require(not unknown, f"places names no option: {', '.join(sorted(unknown))}")

    def test_options_can_be_recorded(self) -> None:
        """Options survive JSON: they are part of a run's identity."""
        recorded = json.loads(json.dumps(self.config.model_dump(mode="json")))
        again = self.component.Config.model_validate_json(json.dumps(recorded))
        require(again == self.config, f"options became {again!r} on the way through JSON, not {self.config!r}")
