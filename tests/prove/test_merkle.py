"""Merkle arithmetic, against the definition in RFC 6962 section 2.1 written out naively."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allod.core.errors import Invalid
from allod.prove.formats.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    leaf_hash,
    root_from_inclusion,
)

LEAVES = [leaf_hash(b"%d" % number) for number in range(600)]


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, over leaf hashes."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def read(height: int, index: int) -> bytes:
    return naive_root(LEAVES[index << height : (index + 1) << height])


sizes = st.integers(1, len(LEAVES))


@given(st.integers(0, len(LEAVES)))
def test_a_frontier_has_the_root_of_its_leaves(size: int) -> None:
    """Appending one at a time comes to the root of the whole."""
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.extend([leaf])
    assert (frontier.size, frontier.root()) == (size, naive_root(LEAVES[:size]))


def test_a_copied_frontier_is_independent() -> None:
    """A batch that fails is forgotten with its copy."""
    first = Frontier()
    first.extend(LEAVES[:1])
    second = first.copy()
    second.extend(LEAVES[1:2])
    assert (first.size, first.root()) == (1, LEAVES[0])


@given(st.data())
def test_an_entry_is_proved_included(data: st.DataObject) -> None:
    """Every entry of every tree has a proof that leads to the root, and to no other root when anything is changed."""
    size = data.draw(sizes)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(read, index, size)
    root = naive_root(LEAVES[:size])
    assert root_from_inclusion(LEAVES[index], index, size, proof) == root
    assert root_from_inclusion(LEAVES[index], index, size, [*proof, LEAVES[0]]) != root
    assert root_from_inclusion(leaf_hash(b"other"), index, size, proof) != root
    if proof:
        assert root_from_inclusion(LEAVES[index], index, size, proof[:-1]) != root
    other = data.draw(st.integers(0, size - 1).filter(lambda number: number != index) if size > 1 else st.just(size))
    assert root_from_inclusion(LEAVES[index], other, size, proof) != root


@given(st.data())
def test_a_tree_is_proved_to_have_grown(data: st.DataObject) -> None:
    """Every prefix has a consistency proof, and a changed root or proof does not pass."""
    new = data.draw(sizes)
    old = data.draw(st.integers(1, new))
    proof = consistency_proof(read, old, new)
    old_root, new_root = naive_root(LEAVES[:old]), naive_root(LEAVES[:new])
    assert is_consistent(old, old_root, new, new_root, proof)
    forged = leaf_hash(b"forged")
    assert not is_consistent(old, forged, new, new_root, proof)
    assert not is_consistent(old, old_root, new, forged, proof)
    assert not is_consistent(old, old_root, new, new_root, [*proof, forged])
    for position in range(len(proof)):
        bent = [*proof[:position], forged, *proof[position + 1 :]]
        assert not is_consistent(old, old_root, new, new_root, bent)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 5)])
def test_no_proof_for_what_is_not_there(index: int, size: int) -> None:
    """Outside the tree there is neither a proof nor a root."""
    with pytest.raises(Invalid):
        inclusion_proof(read, index, size)
    assert root_from_inclusion(LEAVES[0], index, size, []) is None


@pytest.mark.parametrize(("old", "new"), [(0, 5), (6, 5)])
def test_no_consistency_from_nothing_or_backwards(old: int, new: int) -> None:
    """RFC 9162 starts at size one."""
    with pytest.raises(Invalid):
        consistency_proof(read, old, new)
    assert not is_consistent(old, LEAVES[0], new, LEAVES[0], [LEAVES[0]])
