//! An append-only, tamper-evident log for evidence.
//!
//! Records are opaque bytes. They become the leaves of an RFC 6962 Merkle tree, stand in segment files written by one
//! group-committing writer, and are covered by signed checkpoints (C2SP signed-note, Ed25519), so that anyone with the
//! public key can tell whether a record was changed, removed, reordered, or cut off since. Synchronous, no HTTP, no
//! clock of its own, nothing of Kubernetes: useful to whatever has to prove later what it did.
//!
//! ```
//! use portcullis_ledger::{Durability, Ledger, Options, Verifier};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let (ledger, _) = Ledger::open(dir.path(), Options::new("example.com/audit"))?;
//! let receipt = ledger.writer().append_blocking(b"somebody did something".to_vec(), Durability::Fsync)?;
//! assert_eq!(receipt.index, 0);
//! ledger.close();
//!
//! let verified = Verifier::open(dir.path())?.run()?;
//! assert_eq!(verified.size, 1);
//! # Ok(())
//! # }
//! ```
//!
//! A plain axum service that answers only when what it did can be proven:
//!
//! ```
//! use axum::{Router, body::Body, extract::{Path, State}, http::{Request, StatusCode}, routing::post};
//! use portcullis_ledger::{Durability, Ledger, Options, Writer};
//! use tower::ServiceExt as _;
//!
//! async fn refund(State(log): State<Writer>, Path(order): Path<u64>) -> Result<String, StatusCode> {
//!     let (done, recorded) = tokio::sync::oneshot::channel();
//!     let record = format!("order {order} is to be refunded").into_bytes();
//!     log.append(record, Durability::Fsync, Box::new(move |result| drop(done.send(result))));
//!     match recorded.await {
//!         Ok(Ok(receipt)) => Ok(format!("refunded, says record {}", receipt.index)),
//!         _ => Err(StatusCode::SERVICE_UNAVAILABLE),
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let (ledger, _) = Ledger::open(dir.path(), Options::new("shop.example/refunds"))?;
//! let shop = Router::new().route("/orders/{id}/refund", post(refund)).with_state(ledger.writer());
//!
//! let response = shop.clone().oneshot(Request::post("/orders/7/refund").body(Body::empty())?).await?;
//! assert_eq!(response.status(), 200);
//! ledger.close();
//! // What cannot be recorded does not happen.
//! let response = shop.oneshot(Request::post("/orders/8/refund").body(Body::empty())?).await?;
//! assert_eq!(response.status(), 503);
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! ```text
//! segments/00000000000000000000.log   entries, named by their first index
//! tile/0/x001/234, tile/entries/…     hashes and records as C2SP tlog-tiles has them, derived from the segments
//! bodies/ab/abcdef….body              large things, named by the SHA-256 of their content
//! checkpoint, checkpoint.cosigned     the newest signed checkpoint, and the newest one that a witness cosigned
//! key.pem, key.pub, rotations/        the private key (owner only), the public keys (C2SP vkeys), how one followed another
//! lock                                held by the one process that appends
//! checkpoint.cosigned.lock            held while checkpoint.cosigned is written
//! ```
//!
//! Every byte is described in `docs/ledger-format.md`.
//!
//! # What is promised
//!
//! * An append that completed with [`Durability::Write`] survives the death of the process; with
//!   [`Durability::Fsync`] that of the machine.
//! * A crash leaves at most a torn tail of what was never acknowledged; opening moves it aside and says so in the log.
//! * When the disk fails, everything is refused, until the ledger has repaired its files by itself.
//! * Any changed byte of any of these files, and any removed, swapped or cut-off record that a checkpoint covers, is found,
//!   and the file named. What is newer
//!   than the newest checkpoint (by default one second) can be cut off unnoticed by someone with access to the files,
//!   and someone with the private key too can write history anew: send checkpoints elsewhere
//!   ([`Options::on_checkpoint`]) and verify against those ([`Verifier::knowing`]).

mod bodies;
mod body;
mod cosignature;
mod files;
mod hash;
mod keys;
mod ledger;
mod live;
mod log;
mod merkle;
mod note;
mod proof;
mod publish;
mod reader;
mod replay;
mod rotation;
mod segment;
mod sync;
mod tile;
mod tiles;
mod tiling;
mod verify;
mod verify_tiles;
mod write;
mod writer;

pub use bodies::{Bodies, BodyReader, BodyWriter, MAX_BODY_READ, StoredBody};
pub use body::BodyKeys;
pub use cosignature::{CosignError, Cosignature, WitnessKey};
pub use files::private_dir;
pub use hash::{Hash, ParseHashError};
pub use ledger::{Ledger, OpenError, Options, Recovery, RecoveryCause};
pub use live::{LiveBody, LiveReader};
pub use merkle::{
    Frontier, Subtrees, consistency_proof, inclusion_proof, verify_consistency, verify_inclusion,
};
pub use note::{Checkpoint, NoteError, SigningKey, VerifyingKey};
pub use proof::{Proof, ProofError};
pub use reader::{Entries, Reader};
pub use replay::{Fault, FaultKind, ReadError};
pub use rotation::Rotation;
pub use segment::{Entry, EntryRef, MAX_RECORD};
pub use tile::{BundleError, ParseTileError, Tile, TileKind, bundle_records};
pub use tiles::Tiles;
pub use verify::{Verified, Verifier};
pub use writer::{AppendError, Completion, Durability, Health, Receipt, Slot, Writer};

#[cfg(test)]
mod tests;
