"""Attention: four projections are matrices, scores and what they weigh are software.

What torch computes is on its page of ``torch.nn.MultiheadAttention``; here its projections are
layers of their own, so that each can be analog.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from imac_torch.conversion.handlers.dense import dense
from imac_torch.conversion.handlers.source import Expanded

__all__ = ["Attention", "attention"]


class Attention(Expanded):
    """``nn.MultiheadAttention`` with a linear layer for each of its four projections.

    Args:
        of: The original; weights are copied.

    Attributes:
        query, key, value, out: The projections.
        bias_k, bias_v: (1, 1, E) each, a further key and its value for everybody; or None.
    """

    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(self, of: nn.MultiheadAttention) -> None:
        super().__init__()
        self.stands_for = type(of).__name__
        self.embed_dim, self.num_heads = of.embed_dim, of.num_heads
        self.batch_first, self.dropout = of.batch_first, of.dropout
        self.add_zero_attn = of.add_zero_attn
        if of.in_proj_weight is None:
            weights = [of.q_proj_weight, of.k_proj_weight, of.v_proj_weight]
        else:
            weights = list(of.in_proj_weight.chunk(3))
        biases = [None] * 3 if of.in_proj_bias is None else list(of.in_proj_bias.chunk(3))
        trained = of.out_proj.weight.requires_grad
        made = [dense(w, b, trained=trained) for w, b in zip(weights, biases, strict=True)]
        self.query, self.key, self.value = made
        self.out = dense(of.out_proj.weight, of.out_proj.bias, trained=trained)
        for name in ("bias_k", "bias_v"):
            kept = getattr(of, name)
            self.register_parameter(
                name, None if kept is None else nn.Parameter(kept.detach().clone())
            )
        self.train(of.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention`` has it.

        Args:
            query: (L, B, E), batch first (B, L, E), or (L, E).
            key: (S, B, kdim) or likewise.
            value: (S, B, vdim) or likewise.
            key_padding_mask: (B, S) or (S,), True or -inf where a key is left out.
            need_weights: Whether to give the weights, too.
            attn_mask: (L, S) or (B·heads, L, S), True where a pair is left out, or added to scores.
            average_attn_weights: Whether weights are averaged over heads.
            is_causal: That ``attn_mask`` is the causal one, which need not be looked at then.

        Returns:
            (L, B, E) or likewise, and (B, L, S), per head (B, heads, L, S), or None.

        Raises:
            RuntimeError: ``is_causal`` without a mask, as in torch.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask, which is missing")
        alone = query.dim() == 2
        if alone:
            query, key, value = (item[None] for item in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (item.transpose(0, 1) for item in (query, key, value))
        hint = is_causal and key_padding_mask is None and not need_weights
        keys, values = self.key(key), self.value(value)
        if self.bias_k is not None and self.bias_v is not None:
            keys = torch.cat([keys, self.bias_k.expand(len(keys), 1, -1)], dim=1)
            values = torch.cat([values, self.bias_v.expand(len(values), 1, -1)], dim=1)
        q, k, v = (self._heads(item) for item in (self.query(query), keys, values))
        if self.add_zero_attn:
            k, v = (nn.functional.pad(item, (0, 0, 0, 1)) for item in (k, v))
        mask = None if hint else self._mask(attn_mask, key_padding_mask, k.shape[-2], q)
        dropped = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)
            scores = scores if mask is None else scores + mask
            weights = nn.functional.dropout(scores.softmax(-1), dropped)
            mixed = weights @ v
            if average_attn_weights:
                weights = weights.mean(1)
        else:
            mixed = nn.functional.scaled_dot_product_attention(
                q, k, v, mask, dropped, is_causal=hint
            )
        outputs = self.out(mixed.transpose(1, 2).flatten(2))
        if alone:
            outputs, weights = outputs[0], None if weights is None else weights[0]
        elif not self.batch_first:
            outputs = outputs.transpose(0, 1)
        return outputs, weights

    def _heads(self, projected: Tensor) -> Tensor:
        """(B, L, E) → (B, heads, L, E/heads)."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _mask(
        self, pairs: Tensor | None, keys: Tensor | None, count: int, like: Tensor
    ) -> Tensor | None:
        """What is added to scores; keys of one's own at the end are left out by no mask."""
        found: Tensor | None = None
        if pairs is not None:
            pairs = _added(pairs, count, like)
            found = pairs.unflatten(0, (-1, self.num_heads)) if pairs.dim() == 3 else pairs
        if keys is not None:
            keys = _added(keys, count, like)[:, None, None]
            found = keys if found is None else found + keys
        return found


def _added(mask: Tensor, count: int, like: Tensor) -> Tensor:
    """A mask as numbers that are added, for so many keys."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
    return nn.functional.pad(mask.to(like.dtype), (0, count - mask.shape[-1]))


def attention(module: nn.MultiheadAttention) -> Attention:
    """The projections as layers."""
    return Attention(module)
