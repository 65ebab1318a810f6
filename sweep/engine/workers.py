"""The processes that train one model together; they need torch.distributed alone, no Ray.

Every worker draws the same batches and negatives and takes its share of the sequences. So what is trained
does not depend on how many there are, up to rounding and to which places dropout drops.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn


@dataclass(frozen=True)
class Workers:
    """This process among those of its trial. With one of them nothing is ever sent."""

    rank: int = 0
    size: int = 1

    def all_reduce_(self, tensor: Tensor) -> Tensor:
        """The sum over the workers, in place: the same bits in each. All must call it, in the same order."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def sum_gradients_(self, parameters: Iterable[nn.Parameter], weight: float) -> None:
        """Each gradient becomes the sum over the workers of theirs times their `weight`.

        One flat message a step. Torch's DistributedDataParallel would average over the workers as if each had
        as many targets, and would send once a micro-batch; what it gains, sending while the backward pass is
        still running, is little with models of this size.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients]).mul_(weight)
        summed = torch.split(self.all_reduce_(flat), [gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, summed, strict=True):
            gradient.copy_(total.view_as(gradient))

    def any_of(self, here: bool) -> bool:
        """Whether it is so in any of the workers; the same answer in all."""
        flag = torch.tensor(float(here), device=_device_of_messages())
        return bool(self.all_reduce_(flag) > 0)

    def check_equal(self, number: int, what: str, way_out: str) -> None:
        """Raises RuntimeError, in all workers alike, where they do not have the same number."""
        number_W = torch.zeros(self.size, dtype=torch.int64, device=_device_of_messages())
        number_W[self.rank] = number
        numbers = self.all_reduce_(number_W).tolist()
        if len(set(numbers)) > 1:
            raise RuntimeError(f"{what} must be the same in all workers, got {numbers}: {way_out}")


ALONE = Workers()


def _device_of_messages() -> torch.device:
    """NCCL sends what is on a GPU, and nothing else."""
    if torch.distributed.is_initialized() and torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
