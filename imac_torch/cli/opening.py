"""From the arguments of a command to a network, its software model and its data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from imac_torch.analog import IMACNetwork
from imac_torch.cli.options import build_config
from imac_torch.conversion import convert
from imac_torch.errors import DataError
from imac_torch.sources import Loader, Source, open_data, open_model

__all__ = ["Opened", "open_loader", "open_network"]

NATIVE_BATCH = 1000
"""Samples per solve of the native engine where nothing is said."""


@dataclass(frozen=True)
class Opened:
    """A network ready to run.

    Attributes:
        source: The model.
        network: Converted.
        seed: Of its devices' spread, or None.
    """

    source: Source
    network: IMACNetwork
    seed: int | None

    @property
    def software(self) -> nn.Module:
        """The model to compare with."""
        return self.source.software


def open_network(
    model: str,
    *,
    weights: Path | None,
    digital: str | None,
    config: Path | None,
    changes: list[str] | None,
    seed: int | None,
    exclude: list[str] | None = None,
) -> Opened:
    """Open a model and convert it, unless it is converted already.

    Raises:
        DataError: Options do not go with a network that is converted already.
    """
    source = open_model(model, weights=weights, digital=digital)
    if source.network is not None:
        if config is not None or changes or exclude or seed is not None:
            raise DataError(
                f"{model} is converted already, its configuration and devices are in it: "
                "--config, --set, --seed and --exclude go with the original model"
            )
        return Opened(source, source.network, None)
    built = build_config(config, changes, default=source.config)
    generator = None
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
    network = convert(source.software, built, exclude=exclude or (), generator=generator)
    return Opened(source, network.eval(), seed)


def open_loader(
    opened: Opened,
    data: str | None,
    *,
    root: Path | None,
    train: bool,
    first: int | None,
    count: int | None,
    batch_size: int | None,
) -> tuple[Loader, int]:
    """The samples of a command line, and how many there are.

    Raises:
        DataError: There are no data, or the samples asked for are not there.
    """
    source = opened.source
    dataset = open_data(data, source, root=root, train=train)
    own = data is None  # what the source suggests is about its own data
    start = first if first is not None else (source.firstimage if own else 0)
    size = len(dataset)  # type: ignore[arg-type]
    wanted = count if count is not None else (source.testnum if own else None)
    wanted = size - start if wanted is None else wanted
    if wanted < 1 or start + wanted > size:
        raise DataError(
            f"samples {start} to {start + wanted - 1} were asked for (--firstimage, --testnum); "
            f"the data set has 0 to {size - 1}"
        )
    loader = Loader.of(dataset, source.software, batch_size or NATIVE_BATCH)
    return loader.samples(start, wanted), wanted
