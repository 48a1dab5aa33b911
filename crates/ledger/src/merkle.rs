//! The Merkle tree of RFC 6962 §2.1, and its proofs.
//!
//! Sans-I/O: the tree in memory is only its *frontier* (one hash per set bit of its size, so at most 64), which is all
//! that appending needs. A proof names the sub-trees it consists of; whoever has the leaves supplies their hashes
//! ([`Subtrees`]): the tiles ([`Tiles`](crate::Tiles)), or a pass over the stored entries
//! ([`Reader`](crate::Reader)).

use std::ops::Range;

use crate::Hash;

/// The right-hand edge of a Merkle tree: enough to append to it and to compute its root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    /// Roots of the perfect sub-trees that `size` splits into, the largest first.
    nodes: Vec<Hash>,
}

impl Frontier {
    /// The frontier of an empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, nodes: Vec::new() }
    }

    /// The frontier with these parts, if there is a node for each set bit of `size`.
    #[must_use]
    pub fn from_parts(size: u64, nodes: Vec<Hash>) -> Option<Self> {
        (nodes.len() == size.count_ones() as usize).then_some(Self { size, nodes })
    }

    /// How many leaves the tree has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect sub-trees, the largest first.
    #[must_use]
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Appends a leaf by its hash. Answers the root of the largest perfect sub-tree that ends with it.
    pub fn push(&mut self, leaf: Hash) -> Hash {
        self.push_showing(leaf, |_, _| {})
    }

    /// Appends a leaf, and shows each perfect sub-tree's root that this makes known, with its height: first the leaf itself, at
    /// zero. Answers the last.
    pub(crate) fn push_showing(&mut self, leaf: Hash, mut show: impl FnMut(u8, Hash)) -> Hash {
        let (mut node, mut height) = (leaf, 0);
        let mut bits = self.size;
        show(height, node);
        while bits & 1 == 1 {
            let Some(left) = self.nodes.pop() else { break };
            node = Hash::node(left, node);
            height += 1;
            bits >>= 1;
            show(height, node);
        }
        self.nodes.push(node);
        self.size += 1;
        node
    }

    /// The root: `MTH(D[n])` of RFC 6962.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut nodes = self.nodes.iter().rev().copied();
        let Some(last) = nodes.next() else { return Hash::of(b"") };
        nodes.fold(last, |right, left| Hash::node(left, right))
    }
}

impl FromIterator<Hash> for Frontier {
    fn from_iter<I: IntoIterator<Item = Hash>>(leaves: I) -> Self {
        let mut frontier = Self::new();
        for leaf in leaves {
            frontier.push(leaf);
        }
        frontier
    }
}

/// Something that knows the leaves of a tree well enough to say the root of any run of them.
pub trait Subtrees {
    /// Why a root could not be had.
    type Error;

    /// `MTH(D[leaves])`: the root of the tree over just these leaves.
    ///
    /// # Errors
    /// When the leaves cannot be read, or there are not that many.
    fn subtree(&self, leaves: Range<u64>) -> Result<Hash, Self::Error>;
}

/// The proof that the leaf at `index` is in the tree of the first `size` leaves, leaf side first (RFC 6962 §2.1.1).
/// Empty when `index` is not below `size`.
///
/// # Errors
/// Whatever `leaves` answers.
pub fn inclusion_proof<L: Subtrees>(leaves: &L, index: u64, size: u64) -> Result<Vec<Hash>, L::Error> {
    let mut ranges = Vec::new();
    let (mut low, mut high) = (0, size);
    while index < size && high - low > 1 {
        let middle = low + largest_power_below(high - low);
        if index < middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    ranges.into_iter().rev().map(|range| leaves.subtree(range)).collect()
}

/// The proof that the tree of the first `old` leaves is a prefix of that of the first `new` (RFC 6962 §2.1.2).
/// Empty when `old` is zero, equal to, or larger than `new`.
///
/// # Errors
/// Whatever `leaves` answers.
pub fn consistency_proof<L: Subtrees>(leaves: &L, old: u64, new: u64) -> Result<Vec<Hash>, L::Error> {
    if old == 0 || old >= new {
        return Ok(Vec::new());
    }
    let mut ranges = Vec::new();
    let (mut low, mut high) = (0, new);
    // Narrow down to the sub-tree whose right edge is the old tree's; `whole` while that sub-tree *is* the old tree.
    while old < high {
        let middle = low + largest_power_below(high - low);
        if old <= middle {
            ranges.push(middle..high);
            high = middle;
        } else {
            ranges.push(low..middle);
            low = middle;
        }
    }
    if low != 0 {
        ranges.push(low..high);
    }
    ranges.into_iter().rev().map(|range| leaves.subtree(range)).collect()
}

/// Whether `proof` shows that `leaf` stands at `index` in the tree with this `size` and `root` (RFC 9162 §2.1.3.2).
#[must_use]
pub fn verify_inclusion(leaf: Hash, index: u64, size: u64, proof: &[Hash], root: Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = Hash::node(*sibling, hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = Hash::node(hash, *sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == root
}

/// Whether `proof` shows that the tree `(old, old_root)` is a prefix of the tree `(new, new_root)` (RFC 9162 §2.1.4.2).
#[must_use]
pub fn verify_consistency(old: u64, old_root: Hash, new: u64, new_root: Hash, proof: &[Hash]) -> bool {
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return proof.is_empty() && old_root == Frontier::new().root();
    }
    if old > new {
        return false;
    }
    // When the old tree is a perfect sub-tree its root stands first in the path, and is left out of the proof.
    let (first, rest) = if old.is_power_of_two() {
        (old_root, proof)
    } else {
        let Some((first, rest)) = proof.split_first() else { return false };
        (*first, rest)
    };
    let (mut node, mut last) = (old - 1, new - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for hash in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = Hash::node(*hash, old_hash);
            new_hash = Hash::node(*hash, new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = Hash::node(new_hash, *hash);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == old_root && new_hash == new_root
}

/// The largest power of two strictly below `n`, for `n` of two or more: where RFC 6962 splits a tree.
fn largest_power_below(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    struct Leaves(Vec<Hash>);

    impl Subtrees for Leaves {
        type Error = Infallible;

        fn subtree(&self, leaves: Range<u64>) -> Result<Hash, Infallible> {
            Ok(mth(&self.0[leaves.start as usize..leaves.end as usize]))
        }
    }

    fn leaves(count: u64) -> Leaves {
        Leaves((0..count).map(|i| Hash::leaf(&i.to_be_bytes())).collect())
    }

    /// RFC 6962's recursive definition, word for word: what the frontier is compared with.
    fn mth(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::of(b""),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(largest_power_below(many.len() as u64) as usize);
                Hash::node(mth(left), mth(right))
            }
        }
    }

    #[test]
    fn reference_tree_of_certificate_transparency() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let tree: Frontier = inputs.iter().map(|input| Hash::leaf(input)).collect();
        assert_eq!(
            tree.root().to_string(),
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
        );
    }

    #[test]
    fn every_proof_of_small_trees() {
        for size in 0..40 {
            let all = leaves(size);
            let root = mth(&all.0);
            assert_eq!(all.0.iter().copied().collect::<Frontier>().root(), root);
            for index in 0..size {
                let proof = inclusion_proof(&all, index, size).unwrap();
                assert!(verify_inclusion(all.0[index as usize], index, size, &proof, root));
            }
            for old in 0..=size {
                let proof = consistency_proof(&all, old, size).unwrap();
                assert!(
                    verify_consistency(old, mth(&all.0[..old as usize]), size, root, &proof),
                    "{old} {size}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_proof_shows_nothing_else(
            size in 2_u64..300, index in any::<u64>(), other in any::<u64>(), old in any::<u64>(), flip in any::<usize>(),
        ) {
            let (index, other, old) = (index % size, other % size, 1 + old % (size - 1));
            let all = leaves(size);
            let root = mth(&all.0);
            let leaf = all.0[index as usize];

            let mut proof = inclusion_proof(&all, index, size).unwrap();
            prop_assert!(verify_inclusion(leaf, index, size, &proof, root));
            prop_assert!(other == index || !verify_inclusion(leaf, other, size, &proof, root));
            prop_assert!(!verify_inclusion(leaf, index, size, &proof, Hash::of(b"other")));
            let at = flip % proof.len();
            proof[at] = Hash::of(b"other");
            prop_assert!(!verify_inclusion(leaf, index, size, &proof, root));
            proof.pop();
            prop_assert!(!verify_inclusion(leaf, index, size, &proof, root));

            let old_root = mth(&all.0[..old as usize]);
            let mut proof = consistency_proof(&all, old, size).unwrap();
            prop_assert!(verify_consistency(old, old_root, size, root, &proof));
            prop_assert!(!verify_consistency(old, Hash::of(b"other"), size, root, &proof));
            let at = flip % proof.len();
            proof[at] = Hash::of(b"other");
            prop_assert!(!verify_consistency(old, old_root, size, root, &proof));
        }

        #[test]
        fn verifying_never_panics(
            a in any::<u64>(), b in any::<u64>(), proof in proptest::collection::vec(any::<[u8; 32]>().prop_map(Hash::new), 0..70),
        ) {
            let root = Hash::of(b"root");
            let _ = verify_inclusion(root, a, b, &proof, root);
            let _ = verify_consistency(a, root, b, root, &proof);
        }
    }
}
