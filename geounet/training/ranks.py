"""Several processes that train one network, as `torchrun` starts them; alone, everything here does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from geounet.errors import JobError


@dataclass(frozen=True)
class Ranks:
    """A process among those that train together: this one."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def wrapped(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return the network with gradients averaged over all processes."""
        if self.world == 1:
            return network
        cuda = self.device.startswith("cuda")
        return torch.nn.parallel.DistributedDataParallel(
            network, device_ids=[torch.device(self.device).index] if cuda else None
        )

    def total(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sum of everybody's counts."""
        if self.world == 1:
            return counts
        tensor = torch.from_numpy(counts.copy()).to(self.device)
        dist.all_reduce(tensor)
        return np.asarray(tensor.cpu().numpy())

    def any(self, flag: bool) -> bool:
        """Return whether anybody's flag is set."""
        return flag if self.world == 1 else bool(self.total(np.array([int(flag)]))[0])

    def alike(self, network: torch.nn.Module) -> None:
        """Give everybody the first process's statistics of normalisations, which only gradients keep in step."""
        if self.world > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Wait for everybody."""
        if self.world > 1:
            dist.barrier()


def freeze_unused(network: torch.nn.Module, bands: int, size: int) -> None:
    """Take parameters that the output does not depend on out of training, such as stages that a decoder leaves out.

    They would not change anyway, but processes that average gradients wait for those of all parameters.

    Parameters
    ----------
    network
        On the CPU; its statistics stay as they are.
    bands, size
        Of a window.
    """
    training = network.training
    network.eval()
    torch.autograd.backward(network(torch.zeros(1, bands, size, size)).sum())
    for parameter in network.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None
    network.train(training)


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, if it did and this one has not joined them yet.

    Parameters
    ----------
    device
        `cpu`, `cuda` or `cuda:N`; of several processes with CUDA, each takes the GPU of its local rank.

    Raises
    ------
    JobError
        If there are more processes than GPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(device=device)
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if device.startswith("cuda"):
        if local >= torch.cuda.device_count():
            raise JobError(f"torchrun started {local + 1} processes here for {torch.cuda.device_count()} GPUs")
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    if dist.is_initialized():  # by whoever trains several networks in turn: a group cannot be made anew
        yield Ranks(rank, world, device)
        return
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Ranks(rank, world, device)
    finally:
        dist.destroy_process_group()
