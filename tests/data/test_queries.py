"""Keyed randomness and query points: reproducible, nested, valid, without replacement, unbiased."""

import re
from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from spd_bench.data.queries import Edges, Uniform, depth_edges, evaluation_queries
from spd_bench.data.randomness import generator, key_digest, torch_seed
from spd_bench.errors import DataError


def rows(uv_img: np.ndarray) -> set[tuple[int, int]]:
    return {(int(u), int(v)) for u, v in uv_img}


# randomness


def test_same_key_same_stream_other_key_other_stream() -> None:
    first = generator("augmentation", 0, "frame").random(4)
    np.testing.assert_array_equal(first, generator("augmentation", 0, "frame").random(4))
    for other in [("augmentation", 1, "frame"), ("queries", 0, "frame"), ("augmentation", 0)]:
        assert not np.array_equal(first, generator(*other).random(4))


def test_key_parts_cannot_be_confused() -> None:
    keys = [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), (1,), ("1",), (11,), (1, 1), (-1,), ("s1:1",), ()]
    assert len({key_digest(*key) for key in keys}) == len(keys)


def test_numpy_integers_are_integers_and_floats_are_refused() -> None:
    assert key_digest("a", np.int64(7)) == key_digest("a", 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float"):
        key_digest("a", 7.0)  # type: ignore[arg-type]


def test_stream_is_frozen() -> None:
    # Guards every stored result against a silent change of hash, joining or generator. The digest can be checked
    # elsewhere: printf 's1:ai1:1' | sha256sum
    assert key_digest("a", 1).hex() == "919759daf83ac5e831de5b14203413be973830f142658558b9a4f9a7545c576f"
    assert torch_seed("a", 1) == int.from_bytes(bytes.fromhex("919759daf83ac5e8"), "little") // 2
    assert generator("a", 1).random() == 0.985972861101864


def test_torch_seed_has_63_bits() -> None:
    seeds = [torch_seed("seed", i) for i in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


# uniform


def test_uniform_draws_every_valid_pixel_once() -> None:
    depth_m_HW = np.array([[0, 1, 0], [2, 0, 3]], np.float32)
    uv_img = Uniform(Uniform.Config()).sample(depth_m_HW, 3, generator("t"))
    assert uv_img.dtype == np.int64
    assert uv_img.shape == (3, 2)
    assert rows(uv_img) == {(1, 0), (0, 1), (2, 1)}  # (u, v): column first


def test_uniform_is_uniform_over_ordered_pairs() -> None:
    # 2 of 3 valid pixels: 6 equally likely ordered pairs; 6000 draws give 1000 each, sd √(6000·1/6·5/6) = 28.9
    rng = generator("uniform")
    depth_m_HW = np.array([[1, 1, 0, 1]], np.float32)
    counts = Counter(tuple(Uniform(Uniform.Config()).sample(depth_m_HW, 2, rng)[:, 0]) for _ in range(6000))
    assert len(counts) == 6
    assert all(abs(n - 1000) < 5 * 28.9 for n in counts.values())


@pytest.mark.parametrize("sampler", [Uniform(Uniform.Config()), Edges(Edges.Config())], ids=["uniform", "edges"])
def test_more_queries_than_valid_pixels_is_an_error(sampler: Uniform | Edges) -> None:
    depth_m_HW = np.zeros((4, 5), np.float32)
    depth_m_HW[0, :3] = 1
    with pytest.raises(DataError, match="at least 4 pixels with known depth for 4 queries, found 3"):
        sampler.sample(depth_m_HW, 4, generator("t"))
    assert len(sampler.sample(depth_m_HW, 3, generator("t"))) == 3


# edges


def step_depth() -> np.ndarray:
    """1 m left of column 10, 2 m from there on; a hole in rows 14..15, columns 3..4."""
    depth_m_HW = np.ones((20, 20), np.float32)
    depth_m_HW[:, 10:] = 2
    depth_m_HW[14:16, 3:5] = 0
    return depth_m_HW


def test_edges_are_the_step_and_neither_hole_nor_border() -> None:
    # Central differences see the step from columns 9 and 10. Rows 1..18 have whole neighbourhoods: 36 pixels.
    # Pixels with a gradient: 18·18 − the 4×4 around the hole = 308, a tenth is 31: the threshold is the step itself.
    steep_HW = depth_edges(step_depth())
    assert rows(np.argwhere(steep_HW)) == {(v, u) for v in range(1, 19) for u in (9, 10)}


def test_flat_or_tiny_frames_have_no_edges() -> None:
    assert not depth_edges(np.full((9, 9), 3, np.float32)).any()
    assert not depth_edges(np.array([[1, 2], [3, 4]], np.float32)).any()
    assert not depth_edges(np.zeros((9, 9), np.float32)).any()


def test_edge_gradient_is_of_log_depth() -> None:
    # 1 → 2 m above a row of holes, 8 → 12 m below. In log-depth the near step is steeper (ln 2 against ln 1.5), in
    # metres the far one. 20 pixels have a gradient, 2 of them at each step: the steepest tenth is one step.
    depth_m_HW = np.repeat([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]], 7, axis=0).astype(np.float32)
    depth_m_HW[3] = 0
    depth_m_HW[4:] = 4 + 4 * depth_m_HW[4:]
    assert rows(np.argwhere(depth_edges(depth_m_HW))) == {(1, 5), (1, 6)}


def test_edge_share_is_kept() -> None:
    depth_m_HW = step_depth()
    uv_img = Edges(Edges.Config(edge_share=0.3)).sample(depth_m_HW, 40, generator("t"))
    steep_HW = depth_edges(depth_m_HW)
    assert len(rows(uv_img)) == 40
    assert all(depth_m_HW[v, u] > 0 for u, v in uv_img)
    assert all(steep_HW[v, u] for u, v in uv_img[:12])  # 0.3 · 40
    assert not all(steep_HW[v, u] for u, v in uv_img[12:])


def test_missing_edges_are_made_up() -> None:
    flat_m_HW = np.full((6, 6), 2, np.float32)
    assert len(rows(Edges(Edges.Config(edge_share=1.0)).sample(flat_m_HW, 36, generator("t")))) == 36


def test_edge_share_is_a_share() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Edges.Config(edge_share=1.5)


# evaluation


def test_evaluation_queries_are_nested() -> None:
    valid_HW = generator("mask").random((30, 40)) < 0.5
    longest = evaluation_queries(valid_HW, count=500, seed=0, frame="00045")
    for count in (0, 1, 2, 63, 64, 256, 499):
        np.testing.assert_array_equal(evaluation_queries(valid_HW, count=count, seed=0, frame="00045"), longest[:count])
    assert len(rows(longest)) == 500
    assert all(valid_HW[v, u] for u, v in longest)


def test_evaluation_queries_depend_on_seed_frame_and_draw() -> None:
    valid_HW = np.ones((30, 40), bool)
    base = evaluation_queries(valid_HW, count=8, seed=0, frame="a")
    np.testing.assert_array_equal(base, evaluation_queries(valid_HW, count=8, seed=0, frame="a", draw=0))
    others = [
        evaluation_queries(valid_HW, count=8, seed=seed, frame=frame, draw=draw)
        for seed, frame, draw in [(1, "a", 0), (0, "b", 0), (0, "a", 1)]
    ]
    assert len({other.tobytes() for other in [base, *others]}) == 4


def test_all_valid_pixels_can_be_asked_for_and_no_more() -> None:
    valid_HW = np.eye(5, dtype=bool)
    everything = evaluation_queries(valid_HW, count=5, seed=3, frame="a")
    assert rows(everything) == {(i, i) for i in range(5)}
    message = "frame a: expected at least 6 pixels with known depth for 6 queries, found 5"
    with pytest.raises(DataError, match=re.escape(message)):
        evaluation_queries(valid_HW, count=6, seed=3, frame="a")


def test_single_queries_over_draws_are_uniform() -> None:
    # K = 1, 4 valid pixels, 2000 draws: 500 each, sd √(2000·1/4·3/4) = 19.4
    valid_HW = np.array([[True, False, True], [True, False, True]])
    draws = (evaluation_queries(valid_HW, count=1, seed=0, frame="a", draw=draw) for draw in range(2000))
    counts = Counter((int(uv[0, 0]), int(uv[0, 1])) for uv in draws)
    assert counts.keys() == {(0, 0), (2, 0), (0, 1), (2, 1)}
    assert all(abs(n - 500) < 5 * 19.4 for n in counts.values())
