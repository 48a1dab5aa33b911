//! An append-only, tamper-evident log: RFC 6962 Merkle tree, tlog-tiles, signed checkpoints
