"""Fully sharded training (FSDP2): a module whose weights lie in shards on all processes, and are whole where it counts.

Parameters, gradients and optimiser states are split; each decoder layer is gathered for its own pass alone. To sample
from the model, to score with it or to save it, all processes gather a whole copy.
"""

import copy
from typing import ClassVar, TypeVar

from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

Part = TypeVar("Part", bound=nn.Module)


class ShardableModule(LightningModule):
    """A module with one part that is trained and kept, in shards if its trainer's strategy is that of `sharded`."""

    part: ClassVar[str]  # the name of its attribute
    saved: ClassVar[str]  # the dotted name of the transformers model in it, "policy.lm"

    def configure_model(self) -> None:
        """Lightning calls it, perhaps again, before the optimiser is made."""
        if self.device_mesh is None or hasattr(self, "_whole"):
            return
        trained, mesh = getattr(self, self.part), self.device_mesh["data_parallel"]
        # In a tuple, where no module looks for parts of its own.
        self._whole = (nn.ModuleDict({self.part: copy.deepcopy(trained)}),)
        for layer in list(trained.modules()):
            if type(layer).__name__ in _layer_names(trained):
                fully_shard(layer, mesh=mesh)
        fully_shard(trained, mesh=mesh)

    def whole(self) -> nn.Module:
        """This module, or a copy of its part, under the same name, with all weights; all processes call it together."""
        if not hasattr(self, "_whole"):
            return self
        (copied,) = self._whole
        state = get_model_state_dict(getattr(self, self.part), options=StateDictOptions(full_state_dict=True))
        copied[self.part].load_state_dict(state)
        return copied.to(self.device)

    def whole_part(self, kind: type[Part]) -> Part:
        """Its part with all weights; all processes call it together."""
        part = self.whole().get_submodule(self.part)
        assert isinstance(part, kind)
        return part


def sharded(processes: int) -> Strategy:
    """The strategy that trains in shards, and saves whole checkpoints."""
    return ModelParallelStrategy(
        data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def _layer_names(module: nn.Module) -> set[str]:
    """The classes of the model's layers, as transformers names what must stay together."""
    return {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
