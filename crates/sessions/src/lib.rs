//! What a session did, told from the audit log: lists, timelines, terminal replay and exports.
//!
//! A session is one grant, or else one client's work until it pauses. Its records lie scattered over the log; this crate
//! puts them together: who, under which grant, who agreed, every request in words with its result, and every recording. The
//! log is read through [`portcullis_audit::AuditReader`], in streaming passes, or given as an iterator of records by
//! whoever has an index: a session of a million requests takes no more memory than one of ten.
//!
//! ```
//! use portcullis_audit::{AuditReader, SESSION_IDLE};
//! use portcullis_core::{Clock, SystemClock};
//! use portcullis_sessions::{Scope, SessionList, Timeline};
//!
//! # fn tell(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
//! let (reader, now) = (AuditReader::new(dir), SystemClock.now());
//! let mut list = SessionList::new(now, SESSION_IDLE);
//! for stored in reader.records(0)? {
//!     list.record(&stored?);
//! }
//! let (sessions, _) = list.finish();
//! for session in &sessions {
//!     println!("{}  {} requests, {} failed", session.id, session.counts.requests, session.counts.failed);
//! }
//! let id = &sessions[0].id;
//! if let Some(scope) = Scope::find(id, reader.records(0)?, now, SESSION_IDLE)? {
//!     for item in Timeline::new(scope.clone(), reader.records(scope.first())?) {
//!         println!("{:?}", item?);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is recorded is untrusted
//!
//! Who is watched writes the recording: escape sequences that set titles, write the clipboard or make a terminal answer;
//! markup; characters that change the order of others. None of it comes out: terminal output goes through an emulator
//! ([`Screen`]), other text through [`clean`], and exports escape what is left. The size of what is read is bounded
//! throughout.

pub mod cast;
pub mod clean;
mod discovery;
pub mod export;
mod following;
mod list;
mod player;
mod recording;
mod screen;
mod step;
mod summary;
mod text;
mod timeline;
pub mod words;

pub use discovery::{Discovery, fold_discovery};
pub use following::Following;
pub use list::{SessionFilter, SessionList};
pub use player::Player;
pub use recording::{Integrity, Playback, Recording};
pub use screen::{Colour, Line, Screen, Span, Style};
pub use step::{State, Step, Stream, StreamKind};
pub use summary::{Counts, GrantView, Summary, Who};
pub use text::{TextEnd, follow_text, read_text};
pub use timeline::{Happening, Item, Scope, TIMELINE_VERSION, Timeline, TimelineDocument, session_of};

#[cfg(test)]
mod tests;
