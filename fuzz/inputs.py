"""Inputs like those of a target's corpus: pieces of them cut, doubled, swapped, and bytes changed."""

from hypothesis import strategies as st

from .targets import SEPARATOR, Target

_TOKENS = [
    SEPARATOR,
    b"",
    b"\x00",
    b"\xff",
    b"\x81\x7e",
    b"\r\n",
    b"\r\n\r\n",
    b'"',
    b"\\ud83d",
    b"null",
    b"1e999",
    b"-0",
    b"1" * 5000,
    b"[" * 300,
    b'{"a":',
    b"]" * 300,
    "é".encode(),
    b"%",
    b"[]",
    b"@",
    b":",
    b"phx_reply",
    b"phx_close",
    b"phx_error",
    b"presence_diff",
    b"presence_state",
    b"t:1",
]

#: Where an input is opened, how much is taken out there, and what is put in its place.
_Edit = tuple[int, int, bytes]


def _edited(data: bytes, edits: list[_Edit]) -> bytes:
    for at, length, new in edits:
        place = at % (len(data) + 1)
        data = data[:place] + new + data[place + length :]
    return data


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """What to feed a target with; the smallest is an input of its corpus, unchanged."""
    corpus = target.corpus()
    pieces = st.builds(
        lambda data, at, length: data[at % (len(data) + 1) :][:length],
        st.sampled_from(corpus),
        st.integers(0, 2**16),
        st.integers(0, 64),
    )
    new = st.sampled_from(_TOKENS) | st.binary(max_size=4) | pieces
    edits = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 8) | st.integers(0, 256), new), max_size=6)
    return st.builds(_edited, st.sampled_from(corpus), edits)
