"""One process or several: rank, sums over all. Follows torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Processes:
    """The process group of a run; alone, every method is free."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.count > 1 else 0

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def start(self, device: torch.device) -> torch.device:
        """Join the group; gives this process's own device."""
        if self.count == 1:
            return device
        from accelerate import PartialState

        own: torch.device | None = PartialState(cpu=device.type == "cpu").device
        return own or device

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            import torch.distributed as dist

            dist.barrier()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes: one flat all-reduce."""
        if self.count == 1:
            return
        import torch
        import torch.distributed as dist

        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        offset = 0
        for tensor in tensors:
            tensor.copy_(flat[offset : offset + tensor.numel()].view_as(tensor))
            offset += tensor.numel()

    def agree(self, number: int) -> int:
        """The largest `number` that any process holds, on all of them."""
        if self.count == 1:
            return number
        import torch
        import torch.distributed as dist

        box = torch.tensor([number])
        if dist.get_backend() == "nccl":
            box = box.cuda()
        dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return int(box.item())

    def stop(self) -> None:
        if self.count > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()
