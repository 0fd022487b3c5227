"""Fully sharded training (FSDP2): a module whose weights lie in shards on all processes.

Parameters, gradients and optimiser states are split; each decoder layer is gathered only for its own pass. To sample
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
    """A module with one part that is trained and saved, in shards if the trainer's strategy is that of `sharded`."""

    part: ClassVar[str]  # the name of its attribute
    saved: ClassVar[str]  # the dotted name of the transformers model in it, "policy.lm"

    def configure_model(self) -> None:
        """Shard the part; Lightning calls this before the optimiser is made, possibly more than once."""
        if self.device_mesh is None or hasattr(self, "_whole"):
            return
        trained, mesh = getattr(self, self.part), self.device_mesh["data_parallel"]
        # In a tuple, so that it does not become a submodule.
        self._whole = (nn.ModuleDict({self.part: copy.deepcopy(trained)}),)
        for layer in list(trained.modules()):
            if type(layer).__name__ in _layer_names(trained):
                fully_shard(layer, mesh=mesh)
        fully_shard(trained, mesh=mesh)

    def whole(self) -> nn.Module:
        """A module with all weights: this one, or one with a copy of its part. All processes call it together."""
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
    """The classes of the model's layers that transformers says must not be split."""
    return {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
