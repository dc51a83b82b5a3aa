"""State-tuned initial states, read once each."""

from collections import OrderedDict
from pathlib import Path

import torch

from cortexd.checkpoints.shape import ModelShape
from cortexd.checkpoints.tuned_state import StateShape, TunedState
from cortexd.errors import BadRequest, UnsupportedCheckpoint
from cortexd.rwkv.state import SavedState
from cortexd.wire import InitialState

_KEPT = 128 * 2**20  # bytes


class InitialStates:
    """Those that a model was asked for last, ready for its state pool: as many as fit into `keep` bytes, but one at least."""

    def __init__(self, shape: ModelShape, keep: int = _KEPT) -> None:
        self._fitting = StateShape(shape.layers, shape.heads, shape.head_size)
        self._most = max(1, keep // self._fitting.bytes)
        self._no_shift = torch.zeros(shape.layers, shape.width)
        self._states: OrderedDict[str, SavedState] = OrderedDict()  # by hash, the one asked for last at the end

    def get(self, state: InitialState) -> SavedState:
        """To be restored, not written to. Raises BadRequest where the file has vanished or does not fit the model."""
        if state.hash not in self._states:
            self._states[state.hash] = self._read(Path(state.path))
            if len(self._states) > self._most:
                self._states.popitem(last=False)
        self._states.move_to_end(state.hash)
        return self._states[state.hash]

    def clear(self) -> None:
        self._states.clear()

    def _read(self, path: Path) -> SavedState:
        try:
            with path.open("rb") as file:
                tuned = TunedState(file, "The state")
                if tuned.shape != self._fitting:
                    raise BadRequest(f"The state has {tuned.shape}, the model {self._fitting}.", param="state")
                wkv = torch.stack([torch.as_tensor(layer) for layer in tuned.layers()])
        except OSError as error:
            raise BadRequest(
                f"The file of the state cannot be read ({error.strerror}); upload it again.", param="state"
            ) from error
        except UnsupportedCheckpoint as error:
            raise BadRequest(error.message, param="state") from error
        return SavedState(self._no_shift, self._no_shift, wkv)
