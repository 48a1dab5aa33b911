//! Clients ask what an API server has before they ask for anything: dozens of requests that say nothing of what was done.
//! For people they are one line.

use portcullis_core::Timestamp;

use crate::step::{State, Step};
use crate::timeline::Item;

/// Folds requests for discovery that follow each other, and went well, into one [`Item::Discovery`]. Constant memory.
pub fn fold_discovery<E>(
    items: impl IntoIterator<Item = Result<Item, E>>,
) -> impl Iterator<Item = Result<Item, E>> {
    let mut items = items.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = match items.next()? {
            Ok(Item::Request(step)) if is_discovery(&step) => step,
            other => return Some(other),
        };
        let mut count = 1;
        while let Some(Ok(_)) =
            items.next_if(|next| matches!(next, Ok(Item::Request(step)) if is_discovery(step)))
        {
            count += 1;
        }
        Some(Ok(match count {
            1 => Item::Request(first),
            count => Item::Discovery(Discovery { time: first.received, count }),
        }))
    })
}

/// Requests for discovery in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Discovery {
    /// When the first arrived.
    pub time: Timestamp,
    /// How many.
    pub count: u64,
}

/// What clients ask to learn what there is: groups, versions and resources, their schemas, the server's version.
fn is_discovery(step: &Step) -> bool {
    let path = step.command.strip_prefix("get --raw ").map(|path| path.split('?').next().unwrap_or(path));
    let first = path.and_then(|path| path.strip_prefix('/')).and_then(|path| path.split('/').next());
    step.state == State::Completed
        && !step.failed
        && step.resource.is_empty()
        && first.is_some_and(|first| ["api", "apis", "openapi", "version"].contains(&first))
}
