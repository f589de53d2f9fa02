"""Other libraries' errors in one line."""

from __future__ import annotations

import pytest

from otbsr.errors import first_line, one_line


class OpError(Exception):
    """As TensorFlow's: the text is an attribute, too."""

    def __init__(self, message: str) -> None:
        super().__init__(None, None, message)
        self.message = message


def test_the_first_line_is_that_of_the_cause():
    with pytest.raises(ValueError, match="Read failed") as raised:
        raise ValueError("Read failed. See previous exception for details.") from OSError("a.tif: tile 3 is short\nband 1")
    assert first_line(raised.value) == "a.tif: tile 3 is short"
    assert first_line(ValueError("one\ntwo")) == "one" and first_line(ValueError()) == "ValueError"


def test_pages_of_tensorflow_become_one_line():
    told = "Graph execution error:\n\nOOM when allocating\n\ttensor [1,2] [Op:Conv2D] name: x\nDetected at node y"
    assert one_line(OpError(told)) == "Graph execution error: OOM when allocating tensor [1,2]"
    assert one_line(ValueError("No\n\tfile Detected at node 'n' defined at")) == "No file" and one_line(ValueError()) == "ValueError"
    assert len(one_line(OpError("word " * 999))) == 300
