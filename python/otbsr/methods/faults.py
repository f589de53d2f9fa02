"""What can go wrong in a long training: lack of memory, and the signals that end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from otbsr.errors import ProcessingError, one_line
from otbsr.methods.settings import TrainingSettings


@contextmanager
def advice(settings: TrainingSettings, patch: int, checkpoint: Path) -> Iterator[None]:
    """Turn lack of memory, on the processor or a GPU, into a `ProcessingError` that says what to lower."""
    import tensorflow as tf

    try:
        yield
    except (MemoryError, tf.errors.OpError) as error:
        lacking = isinstance(error, MemoryError | tf.errors.ResourceExhaustedError) or "out of memory" in str(error).lower()
        if not lacking:
            raise ProcessingError(f"TensorFlow: {one_line(error)}; the checkpoint {checkpoint}, if there is one, is kept") from error
        kept = (
            f"the checkpoint {checkpoint} is kept: --start-from {checkpoint} --checkpoint NEW.npz goes on from its weights with other settings"
            if checkpoint.is_file()
            else "there is no checkpoint yet"
        )
        size = f"{settings.network.channels} channels and {settings.network.blocks} blocks"
        raise ProcessingError(
            f"memory ran out with --batch {settings.batch}, patches of {patch} input pixels (x{settings.network.factor}) and a network of {size}; lower "
            f"--batch (half of it needs half the memory), take smaller patches (otbsr pairs --patch) or a smaller network (--size); {kept}"
        ) from error


class Signals:
    """The signal that asks a run to end, 0 while there is none."""

    number = 0


@contextmanager
def interrupts() -> Iterator[Signals]:
    """Note SIGINT and SIGTERM instead of ending at once, so that the step in hand ends and a checkpoint is written; the second ends at once."""
    signals = Signals()
    before: dict[int, Any] = {}

    def note(number: int, _frame: Any) -> None:
        signals.number = number
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():  # Python lets no other set handlers
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup, or a shell's background job
                before[number] = signal.signal(number, note)
    try:
        yield signals
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
