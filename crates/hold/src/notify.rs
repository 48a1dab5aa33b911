//! Telling people that something waits for them.

use portcullis_core::BoxFuture;

use crate::ticket::Ticket;

/// What people are told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notice {
    /// A request waits for a decision.
    Held(Box<Ticket>),
    /// A ticket came to an end, or was approved.
    Decided(Box<Ticket>),
}

impl Notice {
    /// The ticket it is about.
    pub fn ticket(&self) -> &Ticket {
        match self {
            Self::Held(ticket) | Self::Decided(ticket) => ticket,
        }
    }
}

/// Tells people. Called after what it tells is on record, in a task of its own: a notifier that hangs delays nobody.
pub trait Notifier: Send + Sync + 'static {
    /// Tells them, as far as it can: a notice that does not arrive changes nothing, and the ticket waits all the same.
    fn notify<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, ()>;
}

/// Writes notices to the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogNotifier;

impl Notifier for LogNotifier {
    fn notify<'a>(&'a self, notice: &'a Notice) -> BoxFuture<'a, ()> {
        let ticket = notice.ticket();
        let (id, user, rule, command) =
            (&ticket.id, &ticket.identity.user, &ticket.rule, &ticket.request.command);
        match notice {
            Notice::Held(_) => {
                tracing::info!(ticket = %id, %user, %rule, %command, "a request waits for approval")
            }
            Notice::Decided(_) => {
                tracing::info!(ticket = %id, %user, %rule, state = ticket.state.name(), "a held request was decided");
            }
        }
        Box::pin(std::future::ready(()))
    }
}
