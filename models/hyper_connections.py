"""Manifold-constrained hyper-connections (mHC; DeepSeek-AI 2025, arXiv 2512.24880).

The residual is S streams wide, and every sub-layer F has a connection of its own:

    x <- H_res x + H_post^T F(H_pre x)

H_pre says what the sub-layer reads, H_post where its output goes, and H_res, doubly stochastic, how the
streams mix meanwhile. All three depend on the token.

Shapes: B batch, L length, T = B * L tokens, D width, S streams, C = S * S + 2 * S coefficients.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from seqsweep.models.layers import SelfInitialised

if TYPE_CHECKING:
    from seqsweep.models.interface import BlocksConfig

RMS_EPS = 1e-6


class HyperConnection(SelfInitialised):
    """How one sub-layer joins the streams; `index` counts the sub-layers of the whole model.

    v = RMSNorm(vec x), without a weight; [h_pre, h_post, h_res] = α ∘ (v φ) + b, where the three α do not
    multiply b; H_pre = σ(h_pre), H_post = 2 σ(h_post), H_res = sinkhorn(h_res) (section 4.2). Coefficients
    are float32 under autocast too, float64 in a float64 model.

    What the config can take away: φ and α with `mhc_coefficients="static"` (the same coefficients for all
    tokens), the last S * S coefficients with `mhc_mixing="identity"` (H_res = 1).
    """

    def __init__(self, config: "BlocksConfig", index: int) -> None:
        super().__init__()
        self.index = index
        self.num_streams = num_streams = config.num_streams
        self.sinkhorn_iterations = config.sinkhorn_iterations
        self.mixes = config.mhc_mixing == "sinkhorn"
        self.sizes = [num_streams, num_streams, *([num_streams**2] if self.mixes else [])]  # pre, post, res
        self.bias = nn.Parameter(torch.empty(sum(self.sizes)))
        self.phi: nn.Parameter | None = None
        self.alpha: nn.Parameter | None = None
        if config.mhc_coefficients == "dynamic":
            self.phi = nn.Parameter(torch.empty(num_streams * config.hidden_dim, sum(self.sizes)))
            self.alpha = nn.Parameter(torch.empty(len(self.sizes)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Streams start out with different roles, turning with `index`: clones would stay clones for ever.

        b_res = -3 off the diagonal mixes a little (with -8 its gradients are below Adam's eps).
        """
        favoured = self.index % self.num_streams
        with torch.no_grad():
            pre, post, *res = torch.split(self.bias, self.sizes)
            pre.fill_(-2.0)[favoured] = 2.0
            post.fill_(-1 / 3)[favoured] = 1.0  # H_post has mean .99: a sub-layer weighs what it does plain
            for h_res in res:
                h_res.fill_(-3.0).view(self.num_streams, -1).fill_diagonal_(0.0)
            if self.phi is not None and self.alpha is not None:
                self.phi.normal_(std=0.02)
                self.alpha.fill_(0.01)

    def forward(self, x_BLSD: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        batch, length, _, width = x_BLSD.shape
        with torch.autocast(x_BLSD.device.type, enabled=False):
            x_TSD, pre_TS, post_TS, res_TSS = self._coefficients(x_BLSD.flatten(0, 1))
            read_TD, mixed_TSD = _Mix.apply(x_TSD, pre_TS, res_TSS)  # type: ignore[no-untyped-call]
        written_TD = sublayer(read_TD.view(batch, length, width)).flatten(0, 1)
        with torch.autocast(x_BLSD.device.type, enabled=False):
            new_TSD = _Merge.apply(mixed_TSD, post_TS, written_TD.to(mixed_TSD.dtype))  # type: ignore[no-untyped-call]
        return new_TSD.view_as(x_BLSD)  # type: ignore[no-any-return]

    def coefficients(self, x_BLSD: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """H_pre (B, L, S), H_post (B, L, S) and H_res (B, L, S, S) or None, to be looked at.

        H_res[..., i, j] is the part of the old stream j in the new stream i.
        """
        batch, length, size, _ = x_BLSD.shape
        with torch.autocast(x_BLSD.device.type, enabled=False):
            _, pre_TS, post_TS, res_TSS = self._coefficients(x_BLSD.flatten(0, 1))
        res_BLSS = None if res_TSS is None else res_TSS.reshape(batch, length, size, size)
        return pre_TS.reshape(batch, length, size), post_TS.reshape(batch, length, size), res_BLSS

    def _coefficients(self, x_TSD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The streams, passed through (see `_Project`), and the coefficients that they ask for."""
        dtype = torch.promote_types(x_TSD.dtype, torch.float32)
        x_TSD = x_TSD.to(dtype)
        logits = torch.split(self.bias.to(dtype)[None], self.sizes, dim=1)
        if self.phi is not None and self.alpha is not None:
            projected_TC, x_TSD = _Project.apply(x_TSD, self.phi.to(dtype))  # type: ignore[no-untyped-call]
            parts = zip(
                logits, torch.split(projected_TC, self.sizes, dim=1), self.alpha.to(dtype), strict=True
            )
            logits = tuple(torch.addcmul(bias, projected, alpha) for bias, projected, alpha in parts)
        num_tokens = len(x_TSD)
        pre, post = logits[0].sigmoid(), 2 * logits[1].sigmoid()
        res = None
        if self.mixes:
            logit = logits[2].reshape(-1, self.num_streams, self.num_streams)
            res = sinkhorn(logit, self.sinkhorn_iterations).expand(num_tokens, -1, -1)
        return x_TSD, pre.expand(num_tokens, -1), post.expand(num_tokens, -1), res


def sinkhorn(logit: Tensor, iterations: int) -> Tensor:
    """exp(logit), (..., S, S), made doubly stochastic: columns, then rows are normalised, `iterations` times.

    So rows sum to one exactly, and what is missing after finitely many iterations is missing in the columns.
    Finite for every finite logit: the first iteration is done on logarithms, each sum shifted by its largest
    term. After it no sum can leave [1/S, S] (a column of sum 1 is divided by row sums of at most S, and so
    on), so that the others need neither logarithms nor shifts. Differentiable once.
    """
    size = logit.shape[-1]
    result: Tensor = _Sinkhorn.apply(logit.reshape(-1, size, size), iterations)  # type: ignore[no-untyped-call]
    return result.view_as(logit)


class _Sinkhorn(torch.autograd.Function):
    """Keeps the logits only: the backward pass iterates again, then takes its way back through the sums.

    Works on (S, S, T): with tokens on the last axis all sums are over long contiguous vectors.
    """

    @staticmethod
    def forward(ctx, logit_TSS, iterations):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(logit_TSS)
        ctx.iterations = iterations
        x = _first_iteration(logit_TSS.permute(1, 2, 0).contiguous())
        for _ in _more_iterations(x, iterations - 1):
            pass
        return x.permute(2, 0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_TSS):  # type: ignore[no-untyped-def]
        logit = ctx.saved_tensors[0].permute(1, 2, 0).contiguous()
        x = _first_iteration(logit)
        sums = list(_more_iterations(x, ctx.iterations - 1))
        # grad is with respect to log x: dividing by a sum takes away x times the sum of grad.
        grad = grad_TSS.permute(1, 2, 0).contiguous() * x
        for axis, total in reversed(sums):
            grad.addcmul_(x, grad.sum(axis, keepdim=True), value=-1)
            x.mul_(total)
        grad.addcmul_(x, grad.sum(1, keepdim=True), value=-1)
        grad.addcmul_(logit.softmax(0), grad.sum(0, keepdim=True), value=-1)
        return grad.permute(2, 0, 1).contiguous(), None


def _first_iteration(logit_SST: Tensor) -> Tensor:
    return logit_SST.log_softmax(0).softmax(1)


def _more_iterations(x_SST: Tensor, iterations: int) -> Iterator[tuple[int, Tensor]]:
    """In place; yields the axis and the sums of each division."""
    for axis in (0, 1) * iterations:
        total = x_SST.sum(axis, keepdim=True)
        x_SST.div_(total)
        yield axis, total


# The streams are the largest tensors of the model by far. So their way is one chain, _Project, _Mix, _Merge,
# that makes them anew once in the forward and once in the backward pass, and has nothing to add up between.


class _Project(torch.autograd.Function):
    """(x_TSD, phi) -> RMSNorm(vec x) φ, (T, C), and x itself, which the next function takes from here."""

    @staticmethod
    def forward(ctx, x_TSD, phi):  # type: ignore[no-untyped-def]
        v_TV = x_TSD.flatten(1)
        square_T1 = torch.linalg.vector_norm(v_TV, dim=1, keepdim=True).square_()
        scale_T1 = square_T1.div_(v_TV.shape[1]).add_(RMS_EPS).rsqrt_()
        projected_TC = (v_TV @ phi).mul_(scale_T1)  # one factor a token, so the norm can come last
        ctx.save_for_backward(x_TSD, phi, scale_T1, projected_TC)
        return projected_TC, x_TSD.view_as(x_TSD)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_TC, grad_TSD):  # type: ignore[no-untyped-def]
        x_TSD, phi, scale_T1, projected_TC = ctx.saved_tensors
        v_TV = x_TSD.flatten(1)
        scaled_TC = grad_TC * scale_T1
        norm_T1 = (grad_TC * projected_TC).sum(1, keepdim=True) * scale_T1.square() / -v_TV.shape[1]
        # In place: grad_TSD is new from _Mix, which alone uses what came out here.
        grad_TV = grad_TSD.flatten(1).addmm_(scaled_TC, phi.T).addcmul_(v_TV, norm_T1)
        return grad_TV.view_as(x_TSD), v_TV.T @ scaled_TC


class _Mix(torch.autograd.Function):
    """(x_TSD, pre_TS, res_TSS) -> H_pre x, (T, D), and H_res x, (T, S, D); without res a copy of x."""

    @staticmethod
    def forward(ctx, x_TSD, pre_TS, res_TSS):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x_TSD, pre_TS, res_TSS)
        mixed_TSD = x_TSD.clone() if res_TSS is None else torch.bmm(res_TSS, x_TSD)
        return _weighted_sum(pre_TS, x_TSD), mixed_TSD

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_TD, grad_TSD):  # type: ignore[no-untyped-def]
        x_TSD, pre_TS, res_TSS = ctx.saved_tensors
        grad_pre_TS = _dot_products(x_TSD, grad_TD)
        if res_TSS is None:
            return torch.addcmul(grad_TSD, pre_TS[:, :, None], grad_TD[:, None]), grad_pre_TS, None
        grad_x_TSD = torch.bmm(res_TSS.mT, grad_TSD)
        grad_x_TSD.addcmul_(pre_TS[:, :, None], grad_TD[:, None])
        return grad_x_TSD, grad_pre_TS, torch.bmm(grad_TSD, x_TSD.mT)


class _Merge(torch.autograd.Function):
    """(mixed_TSD, post_TS, written_TD) -> mixed + H_post^T written, in place of mixed."""

    @staticmethod
    def forward(ctx, mixed_TSD, post_TS, written_TD):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(post_TS, written_TD)
        ctx.mark_dirty(mixed_TSD)
        return mixed_TSD.addcmul_(post_TS[:, :, None], written_TD[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_TSD):  # type: ignore[no-untyped-def]
        post_TS, written_TD = ctx.saved_tensors
        grad_TSD = grad_TSD.contiguous()  # an expanded one (of a sum over streams) makes bmm loop over tokens
        return grad_TSD, _dot_products(grad_TSD, written_TD), _weighted_sum(post_TS, grad_TSD)


def _weighted_sum(weight_TS: Tensor, x_TSD: Tensor) -> Tensor:
    """Over the streams, (T, D)."""
    out_TD = x_TSD.new_empty(x_TSD.shape[0], x_TSD.shape[2])
    for part in _parts(x_TSD):
        torch.sum(x_TSD[part] * weight_TS[part, :, None], 1, out=out_TD[part])
    return out_TD


def _dot_products(x_TSD: Tensor, y_TD: Tensor) -> Tensor:
    """Of every stream with y, (T, S)."""
    out_TS = x_TSD.new_empty(x_TSD.shape[:2])
    for part in _parts(x_TSD):
        torch.sum(x_TSD[part] * y_TD[part, None], 2, out=out_TS[part])
    return out_TS


def _parts(x_TSD: Tensor) -> Iterator[slice]:
    """On a CPU tokens that fit its cache: products summed from there are twice as fast as bmm for one row."""
    tokens, streams, width = x_TSD.shape
    size = max(1, 2**19 // (streams * width)) if x_TSD.device.type == "cpu" else tokens
    for begin in range(0, tokens, max(size, 1)):
        yield slice(begin, begin + size)
