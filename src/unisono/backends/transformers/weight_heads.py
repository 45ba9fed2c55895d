"""What the heads of a folder's weights show before they are read: names and shapes, held against the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unisono.backends.base import LoadRequest
from unisono.backends.notices import TRANSFORMERS_NOISE, Notices
from unisono.backends.transformers.weight_folder import Shapes
from unisono.errors import ModelError

_OF_NO_VALUES = r"meta device|offloaded"
PICKLED = "whether its weights are complete: they are pickles, which show it when they are loaded"
PACKED = "whether its weights are complete: they are quantised, and shown when they are loaded"
REMOTE = "its weights, which are on the hub or in its cache"


@dataclass(frozen=True)
class Heads:
    model: Any = None
    """The model, without the values of its weights; ``None`` where the heads do not give it."""
    warnings: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def look_at_heads(
    request: LoadRequest,
    config: Any,
    who: str,
    look: Callable[[Notices], Shapes],
    load: Callable[[Shapes, Notices], tuple[Any, list[str]]],
) -> Heads:
    """Find what is wrong with a folder's weights.

    ``look`` checks the files, and ``load`` gives their tensors to the model by shape, as they are loaded later.
    """
    notices, model = Notices((*TRANSFORMERS_NOISE, _OF_NO_VALUES)), None
    unchecked: tuple[str, ...] = ()
    try:
        shapes = look(notices)
        if not shapes:
            unchecked = (PICKLED,)
        elif getattr(config, "quantization_config", None) is not None:
            unchecked = (PACKED,)
        else:
            model, unread = load(shapes, notices)
            notices.hear_all(unread)
    except ModelError as error:
        said = error.message.removeprefix(f"{who} ").removeprefix(f"member {request.name!r}: ")
        return Heads(None, (f"its weights cannot be loaded: {said}; {error.hint}", *notices.told()))
    except Exception as error:  # the library may need their values
        said = " ".join(str(error).split())[:150]
        unchecked = (f"whether its weights are complete ({type(error).__name__}: {said})",)
    return Heads(model, notices.told(), unchecked)
