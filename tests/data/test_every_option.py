"""Every option of every registered data set changes the line above the tables, or is refused.

Options that hold a path (`places`) are exempt: a run's identity has the digest of the content, and where it lies says
nothing about a number. A data set or an option that is not covered here fails a test.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from indoor_files import CASES, MM_HW, color, png
from nyu_files import bts_files, filled_mm, h5_files, marigold_files, write_densedepth, write_mat, write_tree

from spd_bench import registry
from spd_bench.api import Component
from spd_bench.data.pack import pack
from spd_bench.errors import SpdError

INDOOR_FILES = {name: (files, options) for name, files, options, _, _ in reversed(CASES)}


def arkitscenes(root: Path) -> None:
    """With the other sizes beside the small ones."""
    INDOOR_FILES["arkitscenes"][0](root)
    for video in root.glob("*/*"):
        for small, others in (("lowres_wide", ("vga_wide", "wide")), ("lowres_depth", ("highres_depth",))):
            for other in others:
                shutil.copytree(video / small, video / other)


def sun_rgbd(root: Path) -> None:
    """In-painted depth has no hole."""
    INDOOR_FILES["sun_rgbd"][0](root)
    filled_HW = np.maximum(MM_HW, 1000)
    for path in root.rglob("depth_bfx/*.png"):
        png(path, (filled_HW << 3) | (filled_HW >> 13))


def plain(root: Path) -> None:
    """A sequence that rgbd_folder reads."""
    for i in range(20):
        color(root / f"rgb/{i:04d}.png", i)
        png(root / f"depth/{i:04d}.png", MM_HW)


def packed(root: Path) -> Path:
    plain(root / "source")
    output = root / "pack.h5"
    pack(root / "source", output, dataset=None, options={}, workers=1, on_frame=lambda done, total: None)
    return output


Made = Callable[[Path], Any]
FILES: dict[str, Made] = {
    **{name: files for name, (files, _) in INDOOR_FILES.items()},
    "arkitscenes": arkitscenes,
    "sun_rgbd": sun_rgbd,
    "rgbd_folder": plain,
    "packed": packed,
    "nyu_eigen": lambda root: write_mat(root / "mat"),
    "nyu_bts": lambda root: write_tree(root, bts_files()),
    "nyu_h5": lambda root: write_tree(root, h5_files()),
    "nyu_marigold": lambda root: write_tree(root, marigold_files(filled=filled_mm)),
    "nyu_densedepth": write_densedepth,
    "synthetic_rooms": lambda root: None,
}
"""Files of each data set; returns the path where they lie, or None for the folder itself."""
SMALL_ROOMS = {"train_scenes": 2, "val_scenes": 1, "test_scenes": 1, "frames_per_scene": 2, "height": 48, "width": 64}
START: dict[str, Mapping[str, Any]] = {"seven_scenes": {"register_depth": False}, "synthetic_rooms": SMALL_ROOMS}
"""Options that all others are added to: registration of so small a frame leaves nothing."""
THE_LAYOUTS_OWN = {("truth", "raw")}
"""What the files of `plain` are without a word."""
OTHERS: dict[str, tuple[Any, ...]] = {
    "shares": ((0.5, 0.2, 0.3),),
    "depth_scale": (900.0,),
    "field_of_view_deg": (61.0,),
    "invalid": ((0.0, 7.0), ()),
    "gap": (1,),
    "block": (3,),
    "color": ("rgb/{id}.png",),
    "depth": ("depth/{id}.png",),
    "seed": (1,),
    **dict.fromkeys(("train_scenes", "val_scenes", "test_scenes", "frames_per_scene"), (3,)),
    "height": (64,),
    "width": (96,),
}
"""Other values of the options whose type does not name them all."""


def others(component: type[Component], option: str) -> tuple[Any, ...]:
    """Values of an option other than its default: all that its type names, or those of `OTHERS`."""
    field = component.Config.model_fields[option]
    kinds = [field.annotation, *get_args(field.annotation)]
    named = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    named += [True, False] if bool in kinds else []
    return tuple(value for value in named if value != field.default) or OTHERS[option]


def silent(component: Any, root: Path, start: Mapping[str, Any]) -> list[str]:
    """The options, with a value, that are taken and leave the description as it is."""
    where = {"root": str(root)} if "root" in component.Config.model_fields else {}
    before = component(component.Config(**where, **start)).describe()
    found = []
    for option in component.Config.model_fields.keys() - component.places:
        for value in others(component, option):
            try:
                data = component(component.Config(**{**where, **start, option: value}))
            except (SpdError, ValueError):
                continue
            if data.describe() == before and (option, value) not in {*start.items(), *THE_LAYOUTS_OWN}:
                found.append(f"{option}={value}")
    return found


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPD_BENCH_CACHE", str(tmp_path / "cache"))


def placed(name: str, root: Path) -> Path:
    return FILES[name](root) or root


@pytest.mark.parametrize("name", registry.names("dataset"))
def test_no_option_is_silent(tmp_path: Path, name: str) -> None:
    component = registry.load("dataset", name)
    assert silent(component, placed(name, tmp_path), START.get(name, {})) == []


def test_options_that_are_exempt_are_paths() -> None:
    exempt = {(name, place) for name in registry.names("dataset") for place in registry.load("dataset", name).places}
    paths = {"root", "mat", "splits", "train_root", "test_root", "train_list", "test_list"}
    assert {place for _, place in exempt} == paths
    assert set(FILES) == set(registry.names("dataset"))


def test_what_is_chosen_is_read_and_not_only_said(tmp_path: Path) -> None:
    """Of options that choose among files, every value opens: none of them passes above by being refused."""
    chosen = {"arkitscenes": ["color", "depth"], "sun_rgbd": ["depth"], "nyu_marigold": ["depth"],
              "nyu_eigen": ["depth", "black_border"], "nyu_bts": ["test_only"], "nyu_h5": ["allow_float16"],
              "diode": ["outdoor"]}  # fmt: skip
    for name, options in chosen.items():
        (tmp_path / name).mkdir()
        component, root = registry.load("dataset", name), placed(name, tmp_path / name)
        for option, value in ((each, value) for each in options for value in others(component, each)):
            assert component(component.Config(root=str(root), **{option: value})).frames("test"), (name, option, value)


def test_control_a_data_set_that_keeps_an_option_to_itself(tmp_path: Path) -> None:
    plain(tmp_path)
    honest: Any = registry.load("dataset", "rgbd_folder")

    class Twin(honest):  # type: ignore[misc]
        def describe(self) -> str:
            return super().describe().replace(f"scenes of {self.config.block}", "scenes of some")

    assert silent(Twin, tmp_path, {}) == ["block=3"]
    assert silent(honest, tmp_path, {}) == []


def test_unusual_options_are_those_that_differ_from_their_defaults() -> None:
    rooms: Any = registry.load("dataset", "synthetic_rooms")
    assert rooms.Config().unusual() == ""
    assert rooms.Config(seed=3, holes=False).unusual() == "seed 3, holes False"
    assert rooms.Config(seed=3, holes=False).unusual(without={"seed"}) == "holes False"
    assert rooms(rooms.Config()).describe().endswith("480x640")  # as before: options at their defaults are not said
