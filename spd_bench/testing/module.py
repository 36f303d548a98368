"""What holds for every component with tensors in it, and what training relies on."""

import copy
import fnmatch
import io
from typing import Any

import torch
from torch import Tensor, nn

from spd_bench.testing.checks import equal, require
from spd_bench.testing.component import ComponentContract
from spd_bench.testing.examples import BATCH
from spd_bench.testing.trees import cast, map_tensors, only, random_projection, sent, tensors


class ModuleContract(ComponentContract):
    """For every component with tensors in it; a kit defines `make`, `example` and `run` for its kind of module."""

    def make(self) -> nn.Module:
        """Returns a new module with initial weights from torch's global generator."""
        raise NotImplementedError

    def example(self) -> Any:
        """Returns float64 inputs for `BATCH` images: tensors, tuples and dataclasses of them, images first."""
        raise NotImplementedError

    def run(self, module: nn.Module, example: Any) -> Any:
        """Returns the module's output for an example."""
        return module(example)

    def built(self, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Returns a module in eval mode, noise added to its parameters so that an initial zero hides no fault."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.make()
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.05 * torch.randn_like(parameter))
        return module.to(dtype).eval()

    @torch.no_grad()
    def outputs(self, module: nn.Module, example: Any) -> dict[str, Tensor]:
        """Returns every tensor of the module's output, by name."""
        return dict(tensors(self.run(module, example)))

    def test_runs_on_the_meta_device(self) -> None:
        """Shapes without arithmetic: every composition is checked so before training."""
        real = self.outputs(self.built(), self.example())
        module = copy.deepcopy(self.built()).to("meta").train()
        on_meta = self.outputs(module, map_tensors(self.example(), lambda x: x.to("meta")))
        shapes, expected = ({name: tuple(x.shape) for name, x in of.items()} for of in (on_meta, real))
        require(shapes == expected, f"shapes on the meta device are {shapes}, with values they are {expected}")
        stray = [name for name, x in on_meta.items() if not x.is_meta]
        require(not stray, f"not on the meta device: {', '.join(stray)}")

    def test_runs_in_float32_and_float64(self) -> None:
        """The module follows `.to(dtype)`: parity is tested in float64, training runs in float32."""
        wide = self.outputs(self.built(), self.example())
        narrow = self.outputs(self.built(dtype=torch.float32), cast(self.example(), torch.float32))
        for dtype, found in ((torch.float64, wide), (torch.float32, narrow)):
            other = {name: x.dtype for name, x in found.items() if x.is_floating_point() and x.dtype != dtype}
            require(not other, f"outputs of a {dtype} module are {other}")

    def test_outputs_are_finite(self) -> None:
        """No NaN and no infinity, on borders and corners too."""
        for name, x in self.outputs(self.built(), self.example()).items():
            bad = int((~x.isfinite()).sum())
            require(bad == 0, f"{bad} of {x.numel()} values of {name or 'the output'} are not finite")

    def test_is_deterministic_in_eval(self) -> None:
        """The same inputs give the same outputs, whatever the global random state and however often."""
        module, example = self.built(), self.example()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            first = self.outputs(module, example)
            torch.manual_seed(2)
            second = self.outputs(module, example)
        equal(second, first, "called again", exact=True)

    def test_eval_mode_is_one_state(self) -> None:
        """`.eval()` twice, or after `.train()`, is the same as once."""
        module, example = self.built(), self.example()
        once = self.outputs(module, example)
        equal(self.outputs(module.eval().eval(), example), once, "after .eval() twice", exact=True)
        equal(self.outputs(module.train().eval(), example), once, "after .train().eval()", exact=True)

    def test_images_do_not_see_each_other(self) -> None:
        """A batch of two images is two batches of one."""
        module, example = self.built(), self.example()
        both = self.outputs(module, example)
        for image in range(BATCH):
            alone = self.outputs(module, only(example, 0, image))
            equal(alone, only(both, 0, image), f"image {image} alone")

    def test_can_be_copied(self) -> None:
        """A deep copy computes the same: the check before training works on one."""
        module, example = self.built(), self.example()
        before = self.outputs(module, example)
        equal(self.outputs(copy.deepcopy(module), example), before, "a deep copy", exact=True)

    def test_inputs_are_not_changed(self) -> None:
        """Other blocks and models read the same tensors."""
        example = self.example()
        before = map_tensors(example, Tensor.clone)
        self.outputs(self.built(), example)
        equal(dict(tensors(example)), dict(tensors(before)), "an input", exact=True)


class TrainedContract(ModuleContract):
    """For every module that may be trained: what training and its checkpoints rely on."""

    def test_initial_weights_follow_the_seed(self) -> None:
        """Initial weights come from torch's global generator alone, which the harness seeds by slot and component."""
        first, second = self.built(seed=3).state_dict(), self.built(seed=3).state_dict()
        equal(second, first, "initial weights of the same seed", exact=True)

    def test_state_dict_holds_everything(self) -> None:
        """Weights loaded into a fresh module make it compute the same."""
        source, target = self.built(seed=0), self.built(seed=1)
        saved = io.BytesIO()
        torch.save(source.state_dict(), saved)
        saved.seek(0)
        target.load_state_dict(torch.load(saved, weights_only=True))
        restored = self.outputs(target, self.example())
        equal(restored, self.outputs(source, self.example()), "after a state_dict round trip", exact=True)

    def test_can_be_pickled(self) -> None:
        """An unpickled copy computes the same: that is how models reach other processes."""
        module, example = self.built(), self.example()
        before = self.outputs(module, example)
        equal(self.outputs(sent(module), example), before, "an unpickled copy", exact=True)

    def test_gradients_reach_every_parameter(self) -> None:
        """Every parameter has a gradient, except those that `no_gradient` names, which have none."""
        module = self.built().train()
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        patterns: tuple[str, ...] = getattr(self.component, "no_gradient", ())
        stale = [pattern for pattern in patterns if not fnmatch.filter(trained, pattern)]
        require(not stale, f"no_gradient matches no parameter: {', '.join(stale)}")
        if not trained:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs = dict(tensors(self.run(module, self.example())))
            scalar = random_projection(outputs)
        require(scalar.requires_grad, "it has parameters, but nothing that it gives carries a gradient")
        scalar.backward()
        size = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in trained.items()}
        exempt = {name for pattern in patterns for name in fnmatch.filter(trained, pattern)}
        dead = [name for name in size if name not in exempt and size[name] == 0]
        require(not dead, f"no gradient reaches {', '.join(dead)}")
        alive = [name for name in exempt if size[name] > 1e-9 * max(size.values())]
        require(not alive, f"named in no_gradient, but has a gradient: {', '.join(sorted(alive))}")

    def test_runs_under_bfloat16_autocast(self) -> None:
        """Forward and backward are finite: suites train so by default (`train.precision`)."""
        module, example = self.built(dtype=torch.float32).train(), cast(self.example(), torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = dict(tensors(self.run(module, example)))
            scalar = random_projection(outputs)
        if scalar.requires_grad:
            scalar.backward()
        outputs |= {f"gradient of {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
        bad = [name for name, x in outputs.items() if not x.isfinite().all()]
        require(not bad, f"not finite under bfloat16 autocast: {', '.join(bad)}")
