"""Features on disk: the float16 of what the encoder gives, encoded once, whatever is killed, damaged or removed."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny import PATIENCE_S
from torch import Tensor

from spd_bench.api import DepthDataset, Encoder, Features, Frame, FrameId
from spd_bench.data.features import shelf
from spd_bench.data.features import stored as stored_features
from spd_bench.data.features.cache import FeatureCache
from spd_bench.data.features.shelf import Pass
from spd_bench.data.features.stored import StoredFeatures
from spd_bench.data.resizing import unit_range
from spd_bench.data.views import FrozenFeatures, View, Views
from spd_bench.errors import BusyError, ConfigError, ResourceError, StateError
from spd_bench.run import runner as runs
from spd_bench.run import session
from spd_bench.run.planning import choose, plan
from spd_bench.run.request import Request
from spd_bench.suite.schema import Augment
from spd_bench.train import training
from spd_bench.train.callback import Callback

COUNTS = {"train": 7, "val": 2, "test": 4}
SHARD = 3  # train: shards of 3, 3 and 1 views
CPU = torch.device("cpu")
SIZE = (28, 42)
VIEW_BYTES = 2 * 2 * 3 * (6 + 5 + 6 + 6)  # float16, 2×3 cells; the second map has five channels
PLAIN = Augment(enabled=False)
TWICE = Augment(views=2)


class Noise(DepthDataset):
    """Frames of random pixels."""

    def __init__(self, note: str = "a") -> None:
        self.note = note

    def frames(self, split: str) -> Sequence[FrameId]:
        return [FrameId(f"{split}/é {i}", "room") for i in range(COUNTS[split])]

    def read(self, frame: FrameId) -> Frame:
        rng = np.random.default_rng(sum(frame.frame.encode()))
        return Frame(rng.integers(0, 256, (30, 40, 3), np.uint8), rng.uniform(1, 4, (30, 40)).astype(np.float32))

    def digest(self) -> str:
        return self.note * 64

    def describe(self) -> str:
        return "thirteen frames"


class Means(Encoder):
    """Colours averaged over 14×14 pixels, in several powers; counts the images that it sees."""

    def __init__(self, log: Path | None = None, on_call: Callable[[int], None] = lambda images: None) -> None:
        super().__init__()
        self.images = 0
        self.log = log
        self.on_call = on_call

    def forward(self, image_B3HW: Tensor) -> Features:
        self.images += len(image_B3HW)
        self.on_call(self.images)
        if self.log is not None:
            with self.log.open("a") as log:
                print(*[round(1e6 * float(image.mean())) for image in image_B3HW], file=log)
        mean_BHW3 = F.avg_pool2d(image_B3HW, 14).permute(0, 2, 3, 1)
        both = torch.cat([mean_BHW3, mean_BHW3.sqrt()], dim=-1)
        return Features((both, both[..., :5] / 3, both * 100, both.square()))

    def digest(self) -> str:
        return "means"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "SHARD_VIEWS", SHARD)
    monkeypatch.setattr(shelf, "ENCODED_TOGETHER", {"cpu": 2})


def identity(**data: Any) -> dict[str, Any]:
    return {
        "encoder": {"encoder": {"use": "means", "version": 1, "options": {}}, "weights": "means"},
        "data": {"dataset": "noise", "version": 1, "digest": "a" * 64, "image_size": list(SIZE)} | data,
    }


def stored(
    root: Path,
    encoder: Encoder | None = None,
    augmentation: Augment = PLAIN,
    *,
    suite: str = "tiny",
    known: dict[str, Any] | None = None,
) -> StoredFeatures:
    views = Views(Noise(), image_size=SIZE, augmentation=augmentation)
    return StoredFeatures(encoder or Means(), root, known or identity(), views, device=CPU, suite=suite)


ALL = {Pass("train"), Pass("val"), Pass("test")}
VARIED = {Pass("train", 0, 0), Pass("train", 0, 1), Pass("val")}


def build(features: StoredFeatures, passes: set[Pass] = ALL, **changes: Any) -> list[str]:
    """Builds and returns what was told."""
    told: list[str] = []
    options = {"limit_gb": None, "workers": 0, "tell": told.append, "on_view": lambda done, total: None} | changes
    stored_features.build({features: passes}, **options)
    return told


def plain(split: str) -> list[View]:
    return [Views.plain(frame) for frame in Noise().frames(split)]


def blank(count: int) -> Tensor:
    """What nobody may look at."""
    return torch.zeros(count, 3, *SIZE)


def same(found: Features, expected: Features) -> bool:
    pairs = zip(found.maps_BHWC, expected.maps_BHWC, strict=True)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def rounded(features: Features) -> Features:
    first, second, third, fourth = (m.half().float() for m in features.maps_BHWC)
    return Features((first, second, third, fourth))


def encoded(views: Views, shown: Sequence[View]) -> Features:
    """What the encoder gives for these views, in float32."""
    frames = {frame.frame: frame for split in COUNTS for frame in views.data.frames(split)}
    images = [views.see(frames[view.frame], view).image_3HW for view in shown]
    return Means()(unit_range(torch.stack(images)))


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.h5"))


# what is read


def test_a_view_reads_as_the_float16_of_its_features(tmp_path: Path) -> None:
    features = stored(tmp_path, encoder := Means())
    build(features)
    assert encoder.images == 1 + 13  # the empty image that asks for sizes, and every frame once
    wanted = [*plain("test"), *plain("train")[::-1], plain("val")[0], plain("test")[1]]
    found = features.of(wanted, blank(len(wanted)))
    exact = encoded(features._plain.views, wanted)
    assert same(found, rounded(exact))
    assert not same(found, exact)  # float16 does round here
    assert encoder.images == 14


def test_another_process_reads_without_an_encoder_call(tmp_path: Path) -> None:
    build(stored(tmp_path))
    again = stored(tmp_path, encoder := Means())
    assert build(again) == []  # nothing to tell
    found = again.of(plain("train"), blank(7))
    assert encoder.images == 0
    assert same(found, rounded(encoded(again._plain.views, plain("train"))))


def test_augmented_views_are_told_apart_and_grow(tmp_path: Path) -> None:
    features = stored(tmp_path, encoder := Means(), TWICE)
    build(features, VARIED)
    assert encoder.images == 2 + 2 * 7 + 2  # one empty image per folder
    frame = Noise().frames("train")[4]
    shown = [View(frame.frame, 0, number, again=True) for number in (0, 1)]
    found = features.of(shown, blank(2))
    assert same(found, rounded(encoded(features._augmented.views, shown)))
    assert not torch.equal(found.maps_BHWC[0][0], found.maps_BHWC[0][1])
    more = stored(tmp_path, encoder := Means(), Augment(views=4))  # the first two of four are those of two
    assert "28 views" not in build(more, VARIED | {Pass("train", 0, 2)})[0]
    assert encoder.images == 7


def test_suites_that_differ_in_augmentation_share_what_they_score(tmp_path: Path) -> None:
    build(stored(tmp_path, None, TWICE), VARIED)
    other = stored(tmp_path, encoder := Means(), Augment(views=2, hue=0), suite="other")
    build(other, VARIED)
    assert encoder.images == 1 + 14  # val is there
    assert len({shard.parent for shard in shards(tmp_path)}) == 3
    assert {entry.suites for entry in FeatureCache(tmp_path).entries()} == {("other",), ("tiny",), ("other", "tiny")}


def test_whatever_changes_features_has_a_folder_of_its_own(tmp_path: Path) -> None:
    options = {"use": "means", "version": 1, "options": {"precision": "bf16"}}
    variants = [
        identity(),
        identity(digest="b" * 64),
        identity(image_size=[42, 42]),
        identity() | {"encoder": {**identity()["encoder"], "weights": "others"}},
        identity() | {"encoder": {**identity()["encoder"], "encoder": options}},
        identity() | {"encoder": {**identity()["encoder"], "encoder": options | {"version": 2}}},
    ]
    folders = {stored(tmp_path, known=known)._plain.folder for known in variants}
    assert len(folders) == len(variants)
    assert stored(tmp_path)._plain.folder in folders


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_the_same_bytes_for_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    build(stored(tmp_path / "one"))
    build(stored(tmp_path / "other"), workers=workers)
    pairs = zip(shards(tmp_path / "one"), shards(tmp_path / "other"), strict=True)
    assert all(a.read_bytes() == b.read_bytes() for a, b in pairs)


def test_features_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    class Huge(Means):
        def forward(self, image_B3HW: Tensor) -> Features:
            first, second, third, fourth = super().forward(image_B3HW).maps_BHWC
            return Features((first, second, third * 1e4, fourth))

    with pytest.raises(ConfigError, match=r"frame test/é 0: float16 cannot hold its features\n.*data.cache: memory"):
        build(stored(tmp_path, Huge()))


# the size, before anything is encoded


def test_the_size_is_told_before_it_is_built(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    features = stored(tmp_path, encoder := Means())
    told: list[str] = []

    def tell(text: str) -> None:
        assert encoder.images == 1
        told.append(text)

    build(features, tell=tell, on_view=lambda done, total: seen.append((done, total)))
    # 13 × 276 bytes
    assert told == [
        f"frozen features of means on thirteen frames: 13 views × 0.00 MB; 0.0 MB to build in {features._plain.folder}"
    ]
    assert seen[0] == (2, 13)
    assert seen[-1] == (13, 13)
    sizes = [shard.stat().st_size for shard in shards(tmp_path)]
    assert sum(sizes) > 13 * VIEW_BYTES
    (entry,) = FeatureCache(tmp_path).entries()
    assert (entry.views, entry.bytes, entry.what) == (13, sum(sizes), "means, 28×42, frames as they are")


def test_a_limit_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"would take 0.0 MB, data.cache_limit_gb allows 3.5e-06 GB\n.*cache rm"):
        build(stored(tmp_path, encoder := Means()), limit_gb=3500e-9)
    assert encoder.images == 1
    assert not shards(tmp_path)
    build(stored(tmp_path), limit_gb=3600e-9)  # 13 × 276 = 3588 bytes
    with pytest.raises(ResourceError):  # what is there counts
        build(stored(tmp_path, known=identity(digest="b" * 64)), limit_gb=3600e-9)


def test_a_full_disk_is_refused_before_anything_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=16 * 2**20 + 13 * VIEW_BYTES - 1))
    with pytest.raises(ResourceError, match="the feature cache needs 17 MB, 17 MB are free"):
        build(stored(tmp_path, encoder := Means()))
    assert encoder.images == 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=16 * 2**20 + 13 * VIEW_BYTES))
    build(stored(tmp_path))


# interruptions, damage, other processes


class Stop(Exception):
    """What a test raises in place of Ctrl-C."""


def stop_at(count: int) -> Callable[[int], None]:
    def on_call(images: int) -> None:
        if images > count:
            raise Stop

    return on_call


def forked(work: Callable[[], object]) -> ForkProcess:
    """A forked process at work. Threads of the parent's do not exist in it: it must not wait for them."""

    def alone() -> None:
        torch.set_num_threads(1)
        work()

    child = multiprocessing.get_context("fork").Process(target=alone)
    child.start()
    return child


def in_child(work: Callable[[], object]) -> int | None:
    """Exit code of a forked process."""
    child = forked(work)
    child.join(PATIENCE_S)
    return child.exitcode


def test_building_goes_on_after_the_finished_shards(tmp_path: Path) -> None:
    build(stored(tmp_path / "whole"))
    with pytest.raises(Stop):  # test has shards of 3 and 1; train's first is under way
        build(stored(tmp_path / "cut", Means(on_call=stop_at(1 + 4 + 2))))
    assert [shard.name for shard in shards(tmp_path / "cut")] == ["test-00000.h5", "test-00001.h5"]
    seen: list[tuple[int, int]] = []
    encoder = Means()
    told = build(stored(tmp_path / "cut", encoder), on_view=lambda done, total: seen.append((done, total)))
    assert "13 views × 0.00 MB, 4 of them there" in told[0]
    assert encoder.images == 9
    assert (seen[0], seen[-1]) == ((6, 13), (13, 13))
    pairs = zip(shards(tmp_path / "whole"), shards(tmp_path / "cut"), strict=True)
    assert all(a.read_bytes() == b.read_bytes() for a, b in pairs)


@pytest.mark.parametrize("count", [1, 3, 8, 12])
def test_a_killed_process_leaves_whole_shards_and_no_lock(tmp_path: Path, count: int) -> None:
    def kill(images: int) -> None:
        if images > count:
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(lambda: build(stored(tmp_path, Means(on_call=kill)))) == -signal.SIGKILL
    assert FeatureCache(tmp_path).verify() == []
    there = len(shards(tmp_path))
    build(stored(tmp_path, encoder := Means()))
    assert (len(shards(tmp_path)), there < 6) == (6, True)
    assert encoder.images <= 13
    assert FeatureCache(tmp_path).verify() == []


def test_what_was_half_written_is_swept_away(tmp_path: Path) -> None:
    features = stored(tmp_path)
    debris = features._plain.folder / ".val-00000.h5.1-ab.tmp"
    debris.parent.mkdir()
    debris.write_bytes(b"half")
    build(features)
    assert not debris.exists()


def mark(path: Path) -> None:
    """One bit of the text that says what the file is."""
    flip(path, 20)


def structure(path: Path) -> None:
    """HDF5's own first bytes."""
    flip(path, 512 + 20)


def feature(path: Path) -> None:
    """One bit of the third map of the second view."""
    with h5py.File(path, "r") as file:
        position = file["map_2"].id.get_offset() + 2 * 6 * 6 + 5
    flip(path, position)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def zeros(path: Path) -> None:
    """A map as a disk gives it that lost a block."""
    with h5py.File(path, "r+") as file:
        file["map_0"][...] = 0


def truncate(path: Path) -> None:
    with h5py.File(path, "r") as file:
        position = file["map_3"].id.get_offset()
    path.write_bytes(path.read_bytes()[:position])


def another(path: Path) -> None:
    shutil.copy(path.with_name("train-00001.h5"), path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "opened"),
    [(damage, False) for damage in (mark, structure, feature, zeros, truncate, another, empty)]
    + [(damage, True) for damage in (feature, zeros, truncate, another, empty)],
)
def test_a_damaged_shard_is_built_again_with_one_warning(
    tmp_path: Path, damage: Callable[[Path], None], opened: bool, caplog: pytest.LogCaptureFixture
) -> None:
    build(stored(tmp_path))
    features = stored(tmp_path, encoder := Means())
    expected = rounded(encoded(features._plain.views, plain("train")))
    if opened:
        assert same(features.of(plain("train"), blank(7)), expected)
    path = features._plain.folder / "train-00000.h5"
    sound = path.read_bytes()
    damage(path)
    assert FeatureCache(tmp_path).verify() == [path]
    assert same(features.of(plain("train"), blank(7)), expected)
    assert encoder.images == SHARD
    assert [str(path) in record.message for record in caplog.records] == [True]
    assert path.read_bytes() == sound
    assert same(features.of(plain("train"), blank(7)), expected)
    assert encoder.images == SHARD


def test_no_flipped_bit_reads_as_a_feature(tmp_path: Path) -> None:
    build(stored(tmp_path))
    folder = shards(tmp_path)[0].parent
    path = folder / "train-00000.h5"
    sound = path.read_bytes()
    expected = rounded(encoded(stored(tmp_path)._plain.views, plain("train")[:SHARD]))
    rng = np.random.default_rng(0)
    rebuilt = 0
    for bit in rng.integers(0, 8 * len(sound), 100):
        content = bytearray(sound)
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(content)
        features = stored(tmp_path, encoder := Means())
        assert same(features.of(plain("train")[:SHARD], blank(SHARD)), expected)
        rebuilt += encoder.images > 0
    assert rebuilt > 30  # the rest lies where HDF5 has room to spare, or in the mark's digest, which `verify` compares


def test_a_shard_that_somebody_removed_is_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = stored(tmp_path, encoder := Means())
    build(features)
    features.of(plain("test"), blank(4))
    shutil.rmtree(features._plain.folder)
    found = features.of(plain("test"), blank(4))
    assert same(found, rounded(encoded(features._plain.views, plain("test"))))
    assert encoder.images == 14 + 4
    assert not caplog.records


def test_an_encoder_that_changed_its_sizes_is_not_read_wrong(tmp_path: Path) -> None:
    build(stored(tmp_path), {Pass("val")})

    class Other(Means):
        def forward(self, image_B3HW: Tensor) -> Features:
            first, _, third, fourth = super().forward(image_B3HW).maps_BHWC
            return Features((first, first, third, fourth))

    with pytest.raises(StateError, match=r"gives maps of .* the cache holds .*\n.*raise its version"):
        build(stored(tmp_path, Other()), {Pass("test")})


def test_an_unreadable_description_costs_no_features(tmp_path: Path) -> None:
    build(stored(tmp_path))
    about = next(tmp_path.glob("*/about.json"))
    for text in ("{", "[]", '{"identity": 1}', json.dumps(json.loads(about.read_text()) | {"maps": [[1]]})):
        about.write_text(text)
        assert FeatureCache(tmp_path).entries()[0].what == "about.json cannot be read"
        assert build(stored(tmp_path, encoder := Means())) == []
        assert encoder.images == 1  # asked for sizes
        assert FeatureCache(tmp_path).entries()[0].views == 13


def test_two_processes_build_each_view_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = tmp_path / "encoded"
    begun = tmp_path / "begun"

    def slowly(images: int) -> None:
        begun.touch()
        time.sleep(0.1)

    def other() -> None:
        build(stored(tmp_path / "cache", Means(log, slowly)))

    child = forked(other)
    while not (begun.exists() and shards(tmp_path / "cache")):
        time.sleep(0.01)
    build(stored(tmp_path / "cache", encoder := Means()))
    child.join(PATIENCE_S)
    assert child.exitcode == 0
    assert encoder.images == 0
    lines = " ".join(log.read_text().splitlines()).split()
    assert len(lines) == 14
    assert [f"waiting for process {child.pid} on" in record.message for record in caplog.records] == [True]


# keeping it


@pytest.fixture
def three(tmp_path: Path) -> list[str]:
    """Keys of three folders that nobody uses, the one used longest ago first: 13 views each."""
    keys = []
    for age, note in ((30, "a"), (20, "b"), (10, "c")):
        known = identity(digest=note * 64)
        assert in_child(lambda known=known: build(stored(tmp_path, known=known))) == 0
        folder = stored(tmp_path, known=known)._plain.folder
        os.utime(folder / "about.json", (time.time() - 86400 * age,) * 2)
        keys.append(folder.name)
    return keys


def keys(entries: Sequence[Any]) -> list[str]:
    return [entry.key for entry in entries]


def test_entries_come_last_used_first(tmp_path: Path, three: list[str]) -> None:
    cache = FeatureCache(tmp_path)
    assert keys(cache.entries()) == three[::-1]
    build(stored(tmp_path))  # reads nothing, but uses the first
    assert keys(cache.entries()) == [three[0], three[2], three[1]]
    assert FeatureCache(tmp_path / "nowhere").entries() == []


def test_the_least_recently_used_make_room(tmp_path: Path, three: list[str]) -> None:
    cache = FeatureCache(tmp_path)
    one = cache.entries()[0].bytes
    assert keys(cache.remove_to(3 * one).removed) == []
    assert keys(cache.remove_to(2 * one).removed) == three[:1]
    assert keys(cache.remove_older(15).removed) == three[1:2]
    assert keys(cache.remove_all().removed) == three[2:]
    assert cache.entries() == []
    assert not list(tmp_path.glob("*/*"))


def test_what_is_in_use_is_kept(tmp_path: Path, three: list[str]) -> None:
    cache = FeatureCache(tmp_path)
    reader = stored(tmp_path, encoder := Means())  # the least recently used one
    reader.of(plain("val"), blank(2))
    with pytest.raises(BusyError, match="a process builds it or reads from it"):
        cache.remove(three[0])
    removal = cache.remove_all()
    assert (keys(removal.in_use), sorted(keys(removal.removed))) == (three[:1], sorted(three[1:]))
    reader.of(plain("test"), blank(4))
    assert encoder.images == 0
    del reader
    assert cache.remove(three[0][:6]).key == three[0]


def test_a_folder_that_is_being_built_is_kept(tmp_path: Path) -> None:
    def remove(images: int) -> None:
        if images > 3:
            assert keys(FeatureCache(tmp_path).remove_all().in_use)

    build(stored(tmp_path, encoder := Means(on_call=remove)))
    assert encoder.images == 14
    assert len(shards(tmp_path)) == 6


def test_a_key_is_found_by_its_beginning_or_refused(tmp_path: Path, three: list[str]) -> None:
    cache = FeatureCache(tmp_path)
    with pytest.raises(ConfigError, match='no key begins with "zz"'):
        cache.find("zz")
    with pytest.raises(ConfigError, match="the key is empty"):
        cache.find("")
    assert cache.find(three[1]).key == three[1]
    path = tmp_path / three[1] / "val-00000.h5"
    feature(path)
    assert cache.verify(key=three[0]) == []
    assert cache.verify() == cache.verify(key=three[1]) == [path]
    path.rename(path.with_name("val-00001.h5"))
    assert cache.verify() == [path.with_name("val-00001.h5")]


# a suite

SUITE = """
suite: tiny
base:
  name: v13
  encoder: patch_descriptors
  neck: pyramid
  b1: local_tokens
  b2: {{use: local_cross_attention, layers: 1}}
  b3: skip
  routing: none
  b4: skip
  b5: mean_tokens
  depth_head: calibrated_inverse
data:
  dataset: {{use: rgbd_folder, root: {root}}}
  image_size: [56, 56]
  augment: {{views: 2}}
  cache: disk
train: {{steps: 6, batch_size: 3, queries: 8, lr: 1e-3, precision: fp32, validations: 2}}
eval: {{protocol: full_frame, k: [1, 8], k1_draws: 2}}
seeds: [0]
axes: {{swap: {{neck: [last_layer]}}}}
report: {{primary: {{metric: absrel, k: 8}}}}
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite over twelve RGB-D frames of 48×64."""
    root = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    for folder in ("rgb", "depth"):
        (root / folder).mkdir()
    for i in range(12):
        depth_mm = np.tile(np.linspace(1000, 4000, 64), (48, 1)) * rng.uniform(0.7, 1.3)
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(root / "rgb" / f"{i:03d}.png")
        Image.fromarray(depth_mm.astype(np.uint16)).save(root / "depth" / f"{i:03d}.png")
    path = root / "tiny.yaml"
    path.write_text(SUITE.format(root=root), encoding="utf-8")
    return path


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of the encoder got; the check of shapes, on no images at all, left out."""
    from spd_components.encoders.patch_descriptors import PatchDescriptors

    calls: list[int] = []
    original = PatchDescriptors.forward

    def counted(self: PatchDescriptors, image_B3HW: Tensor) -> Features:
        if not image_B3HW.is_meta:
            calls.append(len(image_B3HW))
        return original(self, image_B3HW)

    monkeypatch.setattr(PatchDescriptors, "forward", counted)
    return calls


ALONE = "axes=null"
"""Without the second composition."""


class StopAt(Callback):
    def __init__(self, stop_at: int) -> None:
        self.stop_at = stop_at

    def on_step(self, step: int, loss: float) -> None:
        if step == self.stop_at:
            raise KeyboardInterrupt


def runner(suite: Path, root: Path, *sets: str) -> runs.Runner:
    chosen = choose.choose(Request(suite=str(suite), sets=sets))
    made = runs.Runner(plan.Experiment(chosen.suite), root, CPU)
    made.build_features(Callback())
    return made


def trained(made: runs.Runner, index: int = 0) -> tuple[dict[str, Tensor], Any]:
    """Weights and scores of a job."""
    job = made.experiment.jobs[index]
    outcome = made.run(job, Callback())
    assert not outcome.failure, outcome.failure
    weights = torch.load(outcome.folder / "checkpoint.pt", weights_only=True)["model"]
    return weights, outcome.scores["scores"] if outcome.scores else None


def equal(one: tuple[dict[str, Tensor], Any], other: tuple[dict[str, Tensor], Any]) -> bool:
    return one[1] == other[1] and all(torch.equal(value, other[0][name]) for name, value in one[0].items())


def test_only_the_first_job_encodes(suite: Path, tmp_path: Path, encodings: list[int]) -> None:
    made = runner(suite, tmp_path)
    # 8 train frames in 2 views, 2 val, 2 test, and one empty image for each of the two folders
    frames = {split: len(made.experiment.data.frames(split)) for split in ("train", "val", "test")}
    assert sum(encodings) == 2 + 2 * frames["train"] + frames["val"] + frames["test"]
    encodings.clear()
    for job in made.experiment.jobs:
        assert not made.run(job, Callback()).failure
    again = runner(suite, tmp_path, "eval.k=[1, 4]", "report.primary.k=4", "train.lr=2e-3")
    for job in again.experiment.jobs:
        assert not again.run(job, Callback()).failure
    assert encodings == []


def test_training_from_disk_is_training_on_rounded_features(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = trained(runner(suite, tmp_path / "disk", ALONE))
    workers = trained(runner(suite, tmp_path / "workers", ALONE, "train.workers=2"))
    exact = trained(runner(suite, tmp_path / "exact", ALONE, "data.cache=memory"))

    class Rounded(FrozenFeatures):
        def of(self, views: Sequence[View], images_B3HW: Tensor) -> Features:
            return rounded(super().of(views, images_B3HW))

    monkeypatch.setattr("spd_bench.run.inputs.FrozenFeatures", Rounded)
    memory = trained(runner(suite, tmp_path / "memory", ALONE, "data.cache=memory"))
    assert equal(disk, memory)
    assert equal(disk, workers)
    assert not equal(disk, exact)  # float16 does change numbers here


def test_an_interrupted_training_goes_on_to_the_same_bits(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(runner(suite, tmp_path / "whole", ALONE))
    monkeypatch.setattr(training, "CHECKPOINT_EVERY_S", 0)
    cut = runner(suite, tmp_path / "cut", ALONE)
    with pytest.raises(KeyboardInterrupt):
        cut.run(cut.experiment.jobs[0], StopAt(4))
    again = runner(suite, tmp_path / "cut", ALONE)
    assert again.folder(again.experiment.jobs[0]).state == "to resume"
    assert equal(trained(again), whole)


def test_float16_is_part_of_the_identity(suite: Path) -> None:
    def ids(*sets: str) -> list[str]:
        experiment = plan.Experiment(choose.choose(Request(suite=str(suite), sets=(ALONE, *sets))).suite)
        return [job.train_id for job in experiment.jobs]

    assert set(ids()).isdisjoint(ids("data.cache=memory"))
    assert ids("data.cache_limit_gb=5") == ids()


def test_a_cache_of_views_that_never_come_again_is_refused(suite: Path) -> None:
    with pytest.raises(ConfigError, match=r"with augment.views: 0 no training view does\n.*augment.enabled: false"):
        choose.choose(Request(suite=str(suite), sets=("data.augment.views=0",)))
    choose.choose(Request(suite=str(suite), sets=("data.augment.views=0", "data.augment.enabled=false")))


def test_a_run_says_what_it_builds(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session.Tracker, "start", lambda self, beat=None: None)

    def build_cache() -> str:
        session.build_cache(Request(suite=str(suite), root=tmp_path, device="cpu"))
        return capsys.readouterr().err

    first = build_cache()
    assert first.count("frozen features of patch_descriptors on") == 2
    assert "views × 0.05 MB" in first  # 4 maps of 4×4 cells and 384 channels in float16: 49,152 bytes
    assert build_cache() == ""
    assert {entry.suites for entry in FeatureCache(tmp_path / "features").entries()} == {("tiny",)}
