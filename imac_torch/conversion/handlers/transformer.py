"""Transformers of torch as calls of their parts, which can be traced and replaced.

Torch's own have faster paths that compute with weights instead of calling what holds them, and ask
for shapes and values of masks on the way. Here every part is called. Where a padding mask is given
outputs at padded places are those of torch while gradients are recorded; its faster path has 0.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = [
    "Decoder", "Encoder", "EncoderLayer", "Transformer", "decoder", "encoder", "encoder_layer",
    "transformer",
]  # fmt: skip


class EncoderLayer(nn.Module):
    """``nn.TransformerEncoderLayer`` that always asks its parts: torch's has a faster path."""

    activation: Callable[[Tensor], Tensor]
    self_attn: nn.Module
    linear1: nn.Module
    linear2: nn.Module
    norm1: nn.Module
    norm2: nn.Module
    dropout: nn.Module
    dropout1: nn.Module
    dropout2: nn.Module

    def __init__(self, of: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.norm_first = of.norm_first
        for name, part in of.named_children():
            self.add_module(name, part)
        if not isinstance(of.activation, nn.Module):
            self.activation = of.activation
        self.training = of.training

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """As ``nn.TransformerEncoderLayer`` has it.

        Args:
            src: (L, B, E), batch first (B, L, E), or (L, E).
            src_mask: See :class:`Attention`.
            src_key_padding_mask: Likewise.
            is_causal: Likewise.
        """

        def attended(x: Tensor) -> Tensor:
            found, _ = self.self_attn(
                x, x, x, attn_mask=src_mask, key_padding_mask=src_key_padding_mask,
                need_weights=False, is_causal=is_causal,
            )  # fmt: skip
            dropped: Tensor = self.dropout1(found)
            return dropped

        def fed(x: Tensor) -> Tensor:
            hidden = self.dropout(self.activation(self.linear1(x)))
            dropped: Tensor = self.dropout2(self.linear2(hidden))
            return dropped

        x: Tensor
        if self.norm_first:
            x = src + attended(self.norm1(src))
            return x + fed(self.norm2(x))
        x = self.norm1(src + attended(src))
        x = self.norm2(x + fed(x))
        return x


class Encoder(nn.Module):
    """``nn.TransformerEncoder``: its layers, one after the other."""

    def __init__(self, of: nn.TransformerEncoder) -> None:
        super().__init__()
        self.layers, self.norm = nn.ModuleList(of.layers), of.norm
        self.training = of.training

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """As ``nn.TransformerEncoder`` has it.

        Args:
            src: (L, B, E), batch first (B, L, E), or (L, E).
            mask: See :class:`imac_torch.conversion.handlers.attention.Attention`.
            src_key_padding_mask: Likewise.
            is_causal: Likewise; None: the mask is looked at, whatever it is.
        """
        for layer in self.layers:
            src = layer(
                src, src_mask=mask, src_key_padding_mask=src_key_padding_mask,
                is_causal=bool(is_causal),
            )  # fmt: skip
        return src if self.norm is None else self.norm(src)


class Decoder(nn.Module):
    """``nn.TransformerDecoder``: its layers, one after the other."""

    def __init__(self, of: nn.TransformerDecoder) -> None:
        super().__init__()
        self.layers, self.norm = nn.ModuleList(of.layers), of.norm
        self.training = of.training

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """As ``nn.TransformerDecoder`` has it; see :class:`Encoder`.

        Args:
            tgt: Like ``src`` there.
            memory: What the encoder gives.
            tgt_mask: Of ``tgt``, as there.
            memory_mask: Of ``memory``.
            tgt_key_padding_mask: Of ``tgt``.
            memory_key_padding_mask: Of ``memory``.
            tgt_is_causal: Of ``tgt``.
            memory_is_causal: Of ``memory``.
        """
        for layer in self.layers:
            tgt = layer(
                tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=bool(tgt_is_causal), memory_is_causal=memory_is_causal,
            )  # fmt: skip
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(nn.Module):
    """``nn.Transformer``: a decoder of what an encoder gives."""

    def __init__(self, of: nn.Transformer) -> None:
        super().__init__()
        self.encoder, self.decoder = of.encoder, of.decoder
        self.training = of.training

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """As ``nn.Transformer`` has it; see :class:`Encoder` and :class:`Decoder`.

        Args:
            src: Of the encoder.
            tgt: Of the decoder.
            src_mask: Of the encoder.
            tgt_mask: Of the decoder, like what follows but for ``src``.
            memory_mask: See there.
            src_key_padding_mask: Of the encoder.
            tgt_key_padding_mask: See there.
            memory_key_padding_mask: See there.
            src_is_causal: Of the encoder.
            tgt_is_causal: See there.
            memory_is_causal: See there.
        """
        memory = self.encoder(
            src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal
        )
        found: Tensor = self.decoder(
            tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal, memory_is_causal=memory_is_causal,
        )  # fmt: skip
        return found


def encoder_layer(module: nn.TransformerEncoderLayer) -> EncoderLayer:
    """The same parts, all of them called."""
    return EncoderLayer(module)


def encoder(module: nn.TransformerEncoder) -> Encoder:
    """The same layers, all of them called."""
    return Encoder(module)


def decoder(module: nn.TransformerDecoder) -> Decoder:
    """The same layers, all of them called."""
    return Decoder(module)


def transformer(module: nn.Transformer) -> Transformer:
    """The same two parts."""
    return Transformer(module)
