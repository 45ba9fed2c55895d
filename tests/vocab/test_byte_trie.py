"""Tries over bytes: a node is the pieces that begin alike, and its sums are those of a loop over all pieces."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from unisono.vocab.byte_trie import ByteTrie, byte_masses

PIECES = st.lists(st.none() | st.binary(max_size=4), min_size=1, max_size=30).filter(lambda pieces: any(pieces))


def trie_of(pieces: list[bytes | None]) -> ByteTrie:
    return ByteTrie(pieces, lambda piece: (pieces.index(piece),))


@given(PIECES, st.binary(max_size=4))
def test_a_node_is_the_pieces_that_begin_alike(pieces: list[bytes | None], text: bytes) -> None:
    trie = trie_of(pieces)
    assert list(trie.pieces) == sorted({piece for piece in pieces if piece})
    node = trie.root
    for byte in text:
        found = trie.child(node, byte)
        alike = [piece for piece in trie.pieces if piece.startswith(text[: node.depth + 1])]
        assert (found is None) == (not alike)
        if found is None:
            return
        node = found
        assert trie.child(trie.root, text[0]) is trie.child(trie.root, text[0])
        assert list(trie.pieces[node.low : node.high]) == alike
        assert node.is_piece == (text[: node.depth] in alike)


@given(PIECES, st.randoms(use_true_random=False))
def test_the_masses_of_bytes_are_sums_of_pieces(pieces: list[bytes | None], random: object) -> None:
    trie = trie_of(pieces)
    p_N = np.asarray([random.random() for _ in trie.pieces], np.float32)  # type: ignore[attr-defined]
    nodes = [trie.root, *(trie.child(trie.root, piece[0]) for piece in trie.pieces)]
    for node in nodes:
        assert node is not None
        before = trie.pieces[node.low][: node.depth]
        expected = np.zeros(256)
        for piece, p in zip(trie.pieces, p_N.astype(float), strict=True):
            if piece.startswith(before) and len(piece) > len(before):
                expected[piece[len(before)]] += p
        np.testing.assert_allclose(byte_masses(p_N, node), expected, rtol=1e-12)


@given(PIECES)
def test_ids_of_one_piece_share_its_number(pieces: list[bytes | None]) -> None:
    trie = trie_of(pieces)
    for token, piece in enumerate(pieces):
        number = trie.number_V[token]
        assert (number < 0) == (not piece)
        if piece:
            assert trie.pieces[number] == piece
            assert trie.first_N[number] == pieces.index(piece)
            assert trie.ids(number) == (pieces.index(piece),)


def test_small_masses_keep_their_digits() -> None:
    trie = trie_of([b"a", b"b", b"ca", b"cb"])
    p_N = np.asarray([0.9, 0.1, 1e-25, 2e-25], np.float32)
    assert byte_masses(p_N, trie.root)[ord("c")] == np.float64(np.float32(1e-25)) + np.float64(np.float32(2e-25))
