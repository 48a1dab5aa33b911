//! An approval that a request has taken up, until it is known to be used or not.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use portcullis_core::{BoxFuture, Receipt, Refusal};

use crate::{
    error::TicketError,
    layer::Settings,
    ticket::{Claim, Ticket},
    tickets::UnderWay,
};

/// A claim on an approved ticket. Dropped before it is settled (the client went away), it settles itself.
pub(crate) struct Claimed {
    ticket: Ticket,
    guard: Guard,
}

/// Settles the claim when the request is gone. Armed before the claim is made, since that can be interrupted, too.
struct Guard {
    settings: Arc<Settings>,
    id: String,
    claim: Claim,
    /// Whether the ticket is spent: from then on the request may be forwarded.
    spent: Arc<AtomicBool>,
    /// Whether nothing is left to do.
    settled: AtomicBool,
    _under_way: UnderWay,
}

impl Claimed {
    /// Takes up the approval of a ticket.
    pub(crate) async fn take(settings: &Arc<Settings>, id: &str, claim: Claim) -> Result<Self, TicketError> {
        let guard = Guard {
            settings: settings.clone(),
            id: id.to_owned(),
            claim,
            spent: Arc::default(),
            settled: AtomicBool::new(false),
            _under_way: settings.tickets.under_way(id),
        };
        match settings.tickets.claim(id, &guard.claim).await {
            Ok(ticket) => Ok(Self { ticket, guard }),
            Err(error) => {
                let somebody_was_faster = matches!(error, TicketError::WrongState(_));
                guard.settled.store(somebody_was_faster, Ordering::SeqCst);
                Err(error)
            }
        }
    }

    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Spends the ticket; the request must not go on if that fails.
    pub(crate) fn spender(
        &self,
    ) -> impl FnOnce(Option<Receipt>) -> BoxFuture<'static, Result<(), Refusal>> + Send + 'static {
        let Guard { settings, id, claim, spent, .. } = &self.guard;
        let (tickets, id, claim, spent) =
            (settings.tickets.clone(), id.clone(), claim.clone(), spent.clone());
        move |receipt| {
            Box::pin(async move {
                tickets.spend(&id, &claim, receipt).await.map_err(TicketError::into_refusal)?;
                spent.store(true, Ordering::SeqCst);
                Ok(())
            })
        }
    }

    /// The inner service has answered: with this status, or with nothing that tells what became of the request.
    pub(crate) async fn settle(self, status: Option<u16>) {
        let Guard { settings, id, claim, spent, .. } = &self.guard;
        let result = match (spent.load(Ordering::SeqCst), status) {
            (true, Some(status)) => settings.tickets.finish(id, claim, status).await,
            (true, None) => Ok(()),
            (false, _) => settings.tickets.settle(id, claim, settings.intents.as_deref()).await,
        };
        self.guard.is_settled();
        log(id, result);
    }

    /// Gives the approval back: nothing was forwarded.
    pub(crate) async fn release(&self) {
        let Guard { settings, id, claim, .. } = &self.guard;
        let result = settings.tickets.release(id, claim).await;
        self.guard.is_settled();
        log(id, result);
    }

    pub(crate) async fn withdraw(&self, reason: &str) -> Result<(), TicketError> {
        let Guard { settings, id, claim, .. } = &self.guard;
        settings.tickets.withdraw_because(id, Some(claim), reason).await?;
        self.guard.is_settled();
        Ok(())
    }
}

impl Guard {
    fn is_settled(&self) {
        self.settled.store(true, Ordering::SeqCst);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.settled.load(Ordering::SeqCst) || self.spent.load(Ordering::SeqCst) {
            return;
        }
        // Where nothing runs any more to settle it, the claim is settled at the next start, or when it expires.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (settings, id, claim) = (self.settings.clone(), self.id.clone(), self.claim.clone());
        runtime.spawn(async move {
            log(&id, settings.tickets.settle(&id, &claim, settings.intents.as_deref()).await);
        });
    }
}

/// A claim that is not there any more needs no settling.
fn log(id: &str, result: Result<(), TicketError>) {
    match result {
        Ok(()) | Err(TicketError::WrongState(_)) => {}
        Err(error) => {
            tracing::warn!(ticket = %id, %error, "the use of an approval could not be settled; it counts as used");
        }
    }
}
