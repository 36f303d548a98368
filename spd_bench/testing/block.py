"""The kit for the slots b1 to b5, routing and depth_head."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from spd_bench import registry
from spd_bench.api import CHAIN, FIELDS, Anchors, Dims, Pyramid, QueryState, Scene
from spd_bench.testing.checks import TOLERANCE, equal, require, require_shape
from spd_bench.testing.examples import BATCH, DIMS, MANY, QUERIES, example_pyramid, example_state
from spd_bench.testing.module import TrainedContract
from spd_bench.testing.trees import only, shuffled, tensors


class BlockExample(NamedTuple):
    """Inputs of a block: a pyramid and a state in which every field is set."""

    pyramid: Pyramid
    """L1 to L4, as from a neck."""
    state: QueryState
    """The queries before the block."""


class BlockContract(TrainedContract):
    """For slots b1 to b5, routing and depth_head."""

    dims: ClassVar[Dims] = DIMS

    def make(self) -> nn.Module:
        """Returns the block, with `dims` instead of the paper's sizes."""
        module: nn.Module = self.component(self.config, self.dims)
        return module

    def example(self) -> BlockExample:
        """Returns a pyramid as of 13×15 cells of features, and 17 queries per image."""
        return BlockExample(example_pyramid(self.dims), example_state(self.dims))

    def run(self, module: nn.Module, example: BlockExample) -> QueryState:
        """Returns the next state of every query."""
        state: QueryState = module(example.state, self.scene(module, example.pyramid))
        return state

    def scene(self, module: Any, pyramid: Pyramid) -> Scene:
        """Returns the pyramid and what the block computes once per image."""
        return Scene(pyramid, {self.component.slot: module.prepare(pyramid)})

    def test_fits_the_chain(self) -> None:
        """Its slot, its fields and its stand-ins have names that the chain knows."""
        slots = CHAIN[1:]
        require(self.component.slot in slots, f"slot {self.component.slot!r} is not one of {', '.join(slots)}")
        for what in ("reads", "writes"):
            unknown = getattr(self.component, what) - FIELDS.keys()
            require(not unknown, f"{what} names {', '.join(sorted(unknown))}; known: {', '.join(FIELDS)}")
        for slot, name in self.component.left_out.items():
            require(slot in slots, f"left_out names the slot {slot!r}")
            require(name in registry.names(slot), f"left_out names {slot}: {name}, which is not registered")

    def test_gives_the_right_shapes(self) -> None:
        """h [B, K, D], tokens [B, K, T, D], attention [B, K, S], anchors [B, K, R] below S, depth [B, K]."""
        example = self.example()
        state = self.run(self.built(), example)
        sites = example.pyramid.l4.height * example.pyramid.l4.width
        core = (BATCH, QUERIES, self.dims.core)
        for name in self.component.writes:
            require(getattr(state, FIELDS[name]) is not None, f"{name} is declared as written, but is None")
        require_shape("h", state.h_BKD, core)
        for part in state.tokens or ():
            require_shape("tokens", part.tokens_BKTD, (*core[:2], part.tokens_BKTD.shape[2], core[2]))
        require_shape("attention", state.attention_BKS, (*core[:2], sites))
        require_shape("depth", state.depth_m_BK, core[:2])
        if state.anchors is not None:
            _require_anchors(state.anchors, sites)

    def test_shows_what_it_looked_at(self) -> None:
        """`looked` gives places [B, K, N, 2] and weights, shares that sum to 1, and as many tokens as it appends."""
        module: Any = self.built()
        example = self.example()
        scene, before = self.scene(module, example.pyramid), example.state
        with torch.no_grad():
            looked, after = module.looked(before, scene), module(before, scene)
        for name, (xy_BKN2, weight_BKN) in looked.points.items():
            require_shape(f"places of {name}", xy_BKN2, (BATCH, QUERIES, xy_BKN2.shape[2], 2))
            require_shape(f"weights of {name}", weight_BKN, tuple(xy_BKN2.shape[:3]))
        given = sum(part.tokens_BKTD.shape[2] for part in before.tokens or ())
        for share_BKT in looked.token_shares:
            require_shape("shares of tokens", share_BKT, (BATCH, QUERIES, given))
            equal({"": share_BKT.sum(-1)}, {"": torch.ones_like(share_BKT[..., 0])}, "the sum of the shares of tokens")
        if looked.groups:
            kept = len(before.tokens or ()) if "tokens" in self.component.reads else 0
            appended = sum(part.tokens_BKTD.shape[2] for part in (after.tokens or ())[kept:])
            named = sum(size for _, size in looked.groups)
            require(named == appended, f"groups name {named} tokens, {appended} are appended")
        for name, value in looked.values.items():
            require_shape(name, value, (BATCH,))

    def test_reads_only_what_it_declares(self) -> None:
        """It writes the same values when it gets only the fields that it declares to read."""
        module, example = self.built(), self.example()
        scene = self.scene(module, example.pyramid)
        kept = {FIELDS[name]: getattr(example.state, FIELDS[name]) for name in self.component.reads}
        with torch.no_grad():
            whole, lean = (module(state, scene) for state in (example.state, QueryState(example.state.xy_BK2, **kept)))
        written = [FIELDS[name] for name in self.component.writes]
        found, expected = ({f: dict(tensors(getattr(of, f))) for f in written} for of in (lean, whole))
        for field in written:
            equal(found[field], expected[field], f"{field} from the declared reads alone", exact=True)

    def test_writes_exactly_what_it_declares(self) -> None:
        """Declared fields are new; every other field is the same object as in the input."""
        example = self.example()
        with torch.no_grad():
            after = self.run(self.built(), example)
        changed = {name for name, f in FIELDS.items() if getattr(after, f) is not getattr(example.state, f)}
        undeclared, idle = changed - self.component.writes, self.component.writes - changed
        require(not undeclared, f"writes {', '.join(sorted(undeclared))} without declaring it")
        require(not idle, f"declares to write {', '.join(sorted(idle))}, but hands on what came in")
        require(after.xy_BK2 is example.state.xy_BK2, "changes xy, which belongs to the caller")

    def test_queries_do_not_see_each_other(self) -> None:
        """A query has the same output alone, among 17 and among 1,024, in any order, from one scene prepared once."""
        module, example = self.built(), self.example()
        with torch.no_grad():
            scene = self.scene(module, example.pyramid)
            for state in (example.state, example_state(self.dims, MANY)):
                among = dict(tensors(module(state, scene)))
                equal(dict(tensors(module(state, scene))), among, "a scene used again")
                count = state.xy_BK2.shape[1]
                others = dict(tensors(module(shuffled(state), scene)))
                equal(others, shuffled(among), f"{count} queries in another order")
                for k in (0, 4, count - 1):
                    alone = dict(tensors(module(only(state, 1, k), scene)))
                    equal(alone, only(among, 1, k), f"query {k} of {count} alone")


def _require_anchors(anchors: Anchors, sites: int) -> None:
    site_BKR, gate_BKR = anchors.site_BKR, anchors.gate_BKR
    require_shape("anchors.site", site_BKR, (BATCH, QUERIES, site_BKR.shape[-1]))
    require(not site_BKR.is_floating_point(), f"anchors are {site_BKR.dtype}, not integers")
    low, high = int(site_BKR.min()), int(site_BKR.max())
    require(low >= 0 and high < sites, f"anchors lie in [{low}, {high}], sites are 0 to {sites - 1}")
    if gate_BKR is not None:
        require_shape("anchors.gate", gate_BKR, tuple(site_BKR.shape))
        require(bool(((gate_BKR - 1).abs() < TOLERANCE).all()), "the gate is not 1 in value (R-12)")
