"""Files that were changed at random: refused in one line that names them, or read as what was written.

Whoever reads is a process of its own here, so that a crash or a loop would be seen. A mutant is known by its number.
`SPD_BENCH_RELIABILITY=1` (nox -s reliability) tries thousands of each kind; without it, a few.
"""

import hashlib
import json
import os
import random
import resource
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import PATIENCE_S

from spd_bench.api import Encoder, Features, FrameId, PointDepthModel
from spd_bench.data import pack
from spd_bench.data.features import shards
from spd_bench.data.features.shards import Damaged, Shard
from spd_bench.data.reading import untrusted
from spd_bench.data.sets.nyu_mat import DEPTH_FIELD, NYUEigen, _check_splits, _read_scenes, read_splits
from spd_bench.data.sets.nyu_scenes import labelled_frames
from spd_bench.data.sets.packed import PackedFrames
from spd_bench.errors import SpdError
from spd_bench.external.files import open_maps
from spd_bench.score import predict
from spd_bench.train import checkpoint as checkpoints
from spd_bench.train.log import TrainingLog
from spd_components.encoders.dav2_weights import read_tensors, refuse_non_finite

EVERYTHING = os.environ.get("SPD_BENCH_RELIABILITY") == "1"
LONGEST_S = 10
"""Limit of the process that examines an HDF5 file; whatever takes longer is refused, which a mutant may be."""
MOST_MEMORY = 2**30


# ------------------------------------------------------------------------------------------------ mutants


def flipped(content: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def cut(content: bytearray, rng: random.Random) -> bytearray:
    return content[: rng.randrange(len(content))]


def _piece(content: bytearray, rng: random.Random) -> slice:
    start = rng.randrange(len(content))
    return slice(start, start + rng.choice((1, 2, 4, 8, 64, 512, 4096)))


def zeroed(content: bytearray, rng: random.Random) -> bytearray:
    piece = _piece(content, rng)
    content[piece] = bytes(len(content[piece]))
    return content


def noisy(content: bytearray, rng: random.Random) -> bytearray:
    piece = _piece(content, rng)
    content[piece] = rng.choice((rng.randbytes, lambda count: b"\xff" * count))(len(content[piece]))
    return content


def spliced(content: bytearray, rng: random.Random) -> bytearray:
    """A piece of the file over another one."""
    piece, place = content[_piece(content, rng)], rng.randrange(len(content))
    content[place : place + len(piece)] = piece
    return content


def doubled(content: bytearray, rng: random.Random) -> bytearray:
    """A piece of the file once more, before or after itself, so that the rest moves."""
    piece = _piece(content, rng)
    content[piece.start : piece.start] = content[piece]
    return content


def dropped(content: bytearray, rng: random.Random) -> bytearray:
    del content[_piece(content, rng)]
    return content


MUTATIONS = (flipped, flipped, cut, zeroed, noisy, spliced, doubled, dropped)


def mutant(whole: bytes, number: int) -> bytes:
    rng = random.Random(number)
    content = bytearray(whole)
    while content == whole:
        content = rng.choice(MUTATIONS)(content, rng)
    return bytes(content)


# ------------------------------------------------------------------------------------------------ files


def digest_of(arrays: dict[str, Any]) -> str:
    """Of names, types, shapes and bytes."""
    told = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        told.update(f"{name} {array.dtype} {array.shape}".encode())
        told.update(np.ascontiguousarray(array).tobytes())
    return told.hexdigest()


def make_pack(path: Path) -> None:
    frames = path.with_name("frames")
    for i in range(12):
        for kind, value in (("rgb", (6, 8, 3)), ("depth", (6, 8))):
            (frames / kind).mkdir(parents=True, exist_ok=True)
            dtype = np.uint8 if kind == "rgb" else np.uint16
            Image.fromarray(np.full(value, 100 + i if kind == "rgb" else 1000 + i, dtype)).save(
                frames / kind / f"{i:03d}.png"
            )
    pack.pack(frames, path, dataset=None, options={"gap": 0}, workers=1, on_frame=lambda done, total: None)


def read_pack(path: Path) -> str:
    data = PackedFrames(PackedFrames.Config(root=str(path)))
    arrays = {}
    for split in ("train", "val", "test"):
        for number, frame in enumerate(data.frames(split)):
            read = data.read_verified(frame)
            arrays |= {
                f"{split} {number} {frame.frame} {frame.scene} rgb": read.image_HW3,
                f"{split} {number} depth": read.depth_m_HW,
            }
    return data.digest() + digest_of(arrays)


SHAPES = ((2, 3, 4), (2, 3, 4), (1, 2, 4), (1, 1, 4))
NAMES = ["a", "b", "c"]


def make_shard(path: Path) -> None:
    rng = np.random.default_rng(0)
    shards.write(path, "mark", NAMES, [rng.normal(size=(3, *shape)).astype(np.float16) for shape in SHAPES])


def read_shard(path: Path) -> str:
    shard = Shard.open(path, "mark", NAMES, SHAPES)
    return digest_of({f"{row} {i}": m for row in range(3) for i, m in enumerate(shard.read(row))})


def make_predictions(path: Path) -> None:
    rng = np.random.default_rng(0)
    depth_m_IP = rng.uniform(1, 4, (3, 16)).astype(np.float32)
    uv_IP2, draw_P = rng.integers(0, 9, (3, 16, 2)).astype(np.int32), np.zeros(16, np.int32)
    made = predict.Predictions(("a", "b", "c"), ("x", "x", "y"), uv_IP2, depth_m_IP, depth_m_IP + 1, draw_P)
    predict.save(path, made, {"identity": "0123", "protocol": "whole"})


def read_predictions(path: Path) -> str:
    found = predict.load(path)
    names = ("uv_img_IP2", "truth_m_IP", "predicted_m_IP", "draw_P")
    return f"{found.frames} {found.scenes} " + digest_of({name: getattr(found, name) for name in names})


def make_foreign_hdf5(path: Path) -> None:
    """As others write it: HDF5's oldest format, without checksums."""
    with h5py.File(path, "w") as file:
        depth_m = np.random.default_rng(0).uniform(1, 4, (3, 12, 16)).astype(np.float32)
        file.create_dataset("depth", data=depth_m, chunks=(1, 12, 16), compression="gzip")
        file["frames"] = NAMES
        file["group/more"] = np.arange(100)


def read_foreign_hdf5(path: Path) -> str:
    maps = open_maps(path, [FrameId(name, name) for name in NAMES])
    arrays = {str(index): maps.read(index) for index in range(3)}
    assert all(array.ndim == 2 and array.dtype == np.float64 for array in arrays.values())
    return digest_of(arrays)


def official() -> tuple[dict[str, list[int]], list[str]]:
    """The official frame numbers and scenes of NYU Depth V2."""
    rows = labelled_frames()
    numbers = {split: [i + 1 for i in sorted(rows) if rows[i].split == split] for split in ("train", "test")}
    return numbers, [rows[i].scene for i in sorted(rows)]


def make_splits(path: Path, *, compressed: bool) -> None:
    from scipy.io import savemat

    numbers, _ = official()
    arrays = {f"{split}Ndxs": np.array(some, np.uint16)[:, None] for split, some in numbers.items()}
    savemat(path, arrays, do_compression=compressed)


def read_official_splits(path: Path) -> str:
    found = read_splits(path)
    _check_splits(found, official()[1], str(path))
    return json.dumps(found)


LABELLED = 12


def make_labelled(path: Path) -> None:
    """The first frames of NYU Depth V2's labelled file, which is HDF5 of MATLAB's making, shrunk to 6 rows of 8."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w", userblock_size=512) as file:
        file["images"] = rng.integers(0, 256, (LABELLED, 3, 8, 6), np.uint8)
        for name in DEPTH_FIELD.values():
            file[name] = rng.uniform(1, 4, (LABELLED, 8, 6)).astype(np.float32)
        cells = file.create_dataset("scenes", (1, LABELLED), dtype=h5py.ref_dtype)
        for i in range(LABELLED):
            file[f"#refs#/{i}"] = np.array([[ord(letter)] for letter in official()[1][i]], dtype=np.uint16)
            cells[0, i] = file[f"#refs#/{i}"].ref


def read_labelled(path: Path) -> str:
    """As the data set does, without its gates on the size and number of frames."""
    data: Any = object.__new__(NYUEigen)
    data._mat = path
    scenes = _read_scenes(path)
    fields = ("images", *DEPTH_FIELD.values())
    return f"{scenes} " + digest_of({f"{i} {name}": data._read(name, i) for i in range(LABELLED) for name in fields})


class Empty(Encoder):
    def forward(self, image_B3HW: torch.Tensor) -> Features:
        raise NotImplementedError

    def digest(self) -> str:
        return "empty"


class Small(PointDepthModel):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Empty()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))

    def prepare(self, features: Any) -> None:
        raise NotImplementedError

    def decode(self, scene: Any, xy_BK2: Any) -> torch.Tensor:
        raise NotImplementedError


def make_checkpoint(path: Path) -> None:
    model = Small()
    optimiser = torch.optim.AdamW(model.parameters())
    log = TrainingLog(rows=[(2, {"train/loss": 0.5})], sums={"loss": 1.5}, summed=3, seconds=2.0)
    checkpoints.save(path, model, optimiser, 5, log)


def read_checkpoint(path: Path) -> str:
    model = Small()
    state = checkpoints.load_weights(path, model)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    return f"{state['step']} {state['log']} {state['optimiser']['param_groups']} " + digest_of(tensors)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"blocks.{i}.{name}": torch.randn(shape, generator=generator)
        for i in range(4)
        for name, shape in (("weight", (8, 8)), ("bias", (8,)))
    }


def read_foreign_weights(path: Path) -> str:
    found = read_tensors(path)
    refuse_non_finite(found, path)
    assert sum(value.numel() for value in found.values()) * 4 < MOST_MEMORY / 4
    return digest_of({name: value.numpy() for name, value in found.items()})


def legacy_pth(path: Path) -> None:
    """It holds addresses of its writer, so that its mutants differ from time to time."""
    torch.save(tensors(), path, _use_new_zipfile_serialization=False)


@dataclass(frozen=True)
class Kind:
    """A kind of file. checked: what is accepted must be what was written; others carry nothing that could tell.

    mutants: of the whole session, and of CI.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], str]
    checked: bool
    mutants: tuple[int, int] = (5000, 30)


KINDS = {
    "pack": Kind("x.h5", make_pack, read_pack, checked=True),
    "shard": Kind("x.h5", make_shard, read_shard, checked=True),
    "predictions": Kind("x.h5", make_predictions, read_predictions, checked=True),
    "checkpoint": Kind("x.pt", make_checkpoint, read_checkpoint, checked=True),
    "MATLAB 5": Kind("x.mat", lambda p: make_splits(p, compressed=False), read_official_splits, True, (300, 5)),
    "MATLAB 5, compressed": Kind(
        "x.mat", lambda p: make_splits(p, compressed=True), read_official_splits, True, (300, 5)
    ),
    "MATLAB 7.3": Kind("x.mat", make_labelled, read_labelled, checked=False),
    "HDF5 of others": Kind("x.h5", make_foreign_hdf5, read_foreign_hdf5, checked=False),
    "safetensors": Kind("x.safetensors", lambda path: save_file(tensors(), path), read_foreign_weights, checked=False),
    "weights": Kind("x.pth", lambda path: torch.save(tensors(), path), read_foreign_weights, checked=False),
    "weights, legacy": Kind("x.pth", legacy_pth, read_foreign_weights, checked=False),
}


# ------------------------------------------------------------------------------------------------ reading them


def outcome(kind: Kind, path: Path, expected: str) -> str:
    """Returns "refused", "same", "other", or what is wrong."""
    try:
        found = "same" if kind.read(path) == expected else "other"
    except Damaged:  # of a shard, which who reads it then builds again
        found = "refused"
    except SpdError as error:
        found = "refused" if str(path) in (error.where or "") and "\n" not in error.message else f"told: {error}"
    except BaseException as error:
        found = f"raised {type(error).__name__}: {error}"
    return found


def read_them(kind: Kind, folder: Path, whole: bytes, first: int, count: int, out: int) -> None:
    """Reads mutants, and writes a line for each before and after. In a process of its own."""
    untrusted.LONGEST_S = LONGEST_S
    plain = folder / kind.name
    expected = kind.read(plain)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, count):
        path = folder / f"{number}-{kind.name}"
        path.write_bytes(mutant(whole, number))
        found = outcome(kind, path, expected)
        path.unlink()
        if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 > MOST_MEMORY:
            found = "took more than 1 GB"
        os.write(out, f"{' '.join(found.split())[:300]}\n".encode())


def outcomes(kind: Kind, folder: Path, count: int) -> list[str]:
    """Returns the outcome of each mutant. A lost reader is replaced and goes on with the next mutant."""
    kind.make(folder / kind.name)
    whole = (folder / kind.name).read_bytes()
    found: list[str] = []
    while len(found) < count:
        source, out = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                read_them(kind, folder, whole, len(found), count, out)
                code = 0
            finally:
                os._exit(code)
        os.close(out)
        with open(source, "rb", buffering=0) as lines:
            found += _lines(lines, count - len(found), child)
        _, status = os.waitpid(child, 0)
        if len(found) < count:
            found.append(f"reader lost, status {os.waitstatus_to_exitcode(status)}")
    return found


def _lines(stream: Any, count: int, child: int) -> list[str]:
    """Returns the stream's lines, until there are `count`, none comes in time, or it ends."""
    content = b""
    while content.count(b"\n") < count:
        ready, _, _ = select.select([stream], [], [], PATIENCE_S)
        chunk = stream.read(65536) if ready else b""
        if not chunk:
            os.kill(child, signal.SIGKILL)
            break
        content += chunk
    return content.decode().splitlines()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="readers are forks")
@pytest.mark.timeout(9000 if EVERYTHING else 600)
@pytest.mark.parametrize("name", KINDS)
def test_a_mutant_is_refused_or_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    count = kind.mutants[0 if EVERYTHING else 1]
    started = time.monotonic()
    found = outcomes(kind, tmp_path, count)
    counted = Counter(found)
    print(f"{name}: {dict(counted.most_common(6))}, {time.monotonic() - started:.0f} s", file=sys.__stderr__)
    allowed = {"refused", "same"} | (set() if kind.checked else {"other"})
    assert {number: what for number, what in enumerate(found) if what not in allowed} == {}
    assert counted["refused"] > 0
