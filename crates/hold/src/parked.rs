//! One held request, from the question to the answer.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Method, Request, request::Parts};
use http_body_util::BodyExt;
use portcullis_core::{
    Approval, AuditId, Body, BufferedBody, CommitHooks, Ended, Grant, HoldTerms, Identity, LiveError,
    Liveness, ProposedRequest, Reason, Refusal, RequestInfo, Timestamp, Trail, Verdict,
};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    answers::{self, Answer},
    claimed::Claimed,
    copy::copy,
    digest::{digest, is_stream},
    error::TicketError,
    layer::{HOLD_HEADER, Settings},
    ticket::{Claim, Ticket, TicketPreview, TicketState, after},
    tickets::new_id,
};

/// How long a client has to try SPDY where WebSocket was refused.
const FALLS_BACK_WITHIN: Duration = Duration::from_secs(5);

/// A request that may not pass yet.
pub(crate) struct Parked {
    settings: Arc<Settings>,
    terms: HoldTerms,
    no_wait: bool,
}

impl Parked {
    pub(crate) fn new<B>(settings: Arc<Settings>, terms: HoldTerms, request: &Request<B>) -> Self {
        let no_wait = request
            .headers()
            .get_all(HOLD_HEADER)
            .iter()
            .any(|value| value.as_bytes().eq_ignore_ascii_case(b"no-wait"));
        Self { settings, terms, no_wait }
    }

    /// Waits until people have decided. Returns the body that goes on, and the approval that it goes on with.
    pub(crate) async fn wait(self, parts: &mut Parts, body: Body) -> Result<(Body, Claimed), Answer> {
        let Some(identity) = parts.extensions.get::<Identity>().cloned() else {
            return Err(Refusal::unauthorized(
                "hold/no-identity",
                "nobody is known to have sent this request",
            )
            .detail("no outer layer left an identity; is an authenticating layer missing from the stack?")
            .into());
        };
        let (body, bytes) = self.read(&RequestInfo::of_parts(parts), parts, body).await?;
        let proposed = ProposedRequest::new(parts, identity, bytes);
        let digest = self.digest(&proposed);
        let liveness = parts.extensions.get::<Liveness>().cloned().unwrap_or_default();

        let ticket =
            match self.settings.tickets.find_open(&digest).await.map_err(TicketError::into_refusal)? {
                Some(ticket) => ticket,
                None => self.ask(&proposed, digest, parts).await?,
            };
        Trail::of(&parts.extensions).note().notes.insert("ticket", ticket.id.clone().into());
        let claimed = self.decided(&ticket, &proposed, &liveness).await?;
        self.check_unchanged(&claimed, &proposed).await?;
        self.let_through(&claimed, parts).await?;
        Ok((body, claimed))
    }

    /// The whole body, unless it is a stream that nobody agrees to the bytes of.
    async fn read(
        &self,
        info: &RequestInfo,
        parts: &Parts,
        mut body: Body,
    ) -> Result<(Body, Bytes), Refusal> {
        if is_stream(info) {
            return Ok((body, Bytes::new()));
        }
        if let Some(BufferedBody(bytes)) = parts.extensions.get::<BufferedBody>() {
            return Ok((body, bytes.clone()));
        }
        let max = self.settings.max_body;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Refusal::bad_request("hold/body-incomplete", "the request body broke off")
                    .detail(error.to_string())
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > max - bytes.len() {
                let message =
                    format!("the body of a held request may have {max} bytes, and this one has more");
                return Err(Refusal::new(Reason::RequestEntityTooLarge, "hold/too-large", message));
            }
            bytes.extend_from_slice(&data);
        }
        let bytes = bytes.freeze();
        Ok((Body::from(bytes.clone()), bytes))
    }

    fn digest(&self, request: &ProposedRequest) -> String {
        digest(
            &self.settings.salt,
            &request.identity,
            &request.info,
            &request.method,
            &request.uri,
            &request.headers,
            &request.body,
        )
    }

    /// Opens a ticket, unless the server would refuse the request anyway.
    async fn ask(&self, request: &ProposedRequest, digest: String, parts: &Parts) -> Result<Ticket, Answer> {
        let tickets = &self.settings.tickets;
        let open = tickets.open_tickets_of(&request.identity, self.settings.max_open).await;
        if open.map_err(TicketError::into_refusal)? >= self.settings.max_open as usize {
            return Err(answers::too_many(self.settings.max_open).into());
        }
        let preview = self.preview(request).await?;
        let verdict = parts.extensions.get::<Verdict>();
        let now = tickets.now();
        let ticket = Ticket {
            id: new_id(),
            version: 1,
            digest,
            identity: request.identity.clone(),
            grant: parts.extensions.get::<Grant>().cloned(),
            rule: verdict.and_then(|verdict| verdict.rule.clone()).unwrap_or_else(|| "default".into()),
            message: verdict.and_then(|verdict| verdict.message.clone()),
            terms: self.terms.clone(),
            request: copy(
                self.settings.redactor.as_ref(),
                request.audit_id,
                &request.info,
                &request.method,
                &request.uri,
                &request.headers,
                &request.body,
            ),
            preview,
            state: TicketState::Pending,
            approvals: Vec::new(),
            created_at: now,
            expires_at: after(now, self.terms.expires_after.unwrap_or(self.settings.expires_after)),
            answered: false,
        };
        Ok(tickets.open(ticket).await.map_err(TicketError::into_refusal)?)
    }

    async fn preview(&self, request: &ProposedRequest) -> Result<Option<TicketPreview>, Answer> {
        let Some(live) = self.settings.live.as_ref().filter(|_| !is_stream(&request.info)) else {
            return Ok(None);
        };
        let unavailable = |why: String| TicketPreview { unavailable: Some(why), ..TicketPreview::default() };
        Ok(Some(match timeout(self.settings.preview_within, live.dry_run(request)).await {
            Ok(Ok(preview)) => TicketPreview {
                before: preview.before,
                after: preview.after,
                resource_version: preview.resource_version,
                unavailable: preview.unavailable,
            },
            Ok(Err(LiveError::WouldRefuse { status, body, .. })) => {
                return Err(Answer::Servers { status, body });
            }
            Ok(Err(error)) => unavailable(error.to_string()),
            Err(_) => unavailable("the server took too long to say what the request would do".into()),
        }))
    }

    /// Waits for the ticket's end, or for its approval, and takes that up.
    async fn decided(
        &self,
        ticket: &Ticket,
        request: &ProposedRequest,
        liveness: &Liveness,
    ) -> Result<Claimed, Answer> {
        let tickets = &self.settings.tickets;
        let id = ticket.id.as_str();
        let mut changes = tickets.changes();
        let mut guard = DisconnectGuard::new(&self.settings, id);
        let over = liveness.ended();
        tokio::pin!(over);
        // A client never resends an exec by itself, so its connection is held until the ticket ends.
        let patience = match is_stream(&request.info) {
            true => Duration::MAX,
            false => self.terms.hold_for.unwrap_or(self.settings.hold_for),
        };
        let deadline = Instant::now().checked_add(patience);
        loop {
            let ticket = tickets.find(id).await.map_err(TicketError::into_refusal)?;
            let now = tickets.now();
            if ticket.is_overdue(now) && !matches!(ticket.state, TicketState::Claimed { .. }) {
                self.tolerate(tickets.expire(id).await)?;
                continue;
            }
            if let TicketState::Approved { .. } = ticket.state {
                let audit_id = request.audit_id.unwrap_or_else(AuditId::generate);
                let claim = Claim { audit_id, origin: self.settings.origin.clone() };
                match Claimed::take(&self.settings, id, claim).await {
                    Ok(claimed) => {
                        guard.disarm();
                        return Ok(claimed);
                    }
                    // Somebody was faster; what they did shows in a moment.
                    Err(error) => self.tolerate(Err::<(), _>(error))?,
                }
                continue;
            }
            let under_way = tickets.is_under_way(id);
            if let Some(answer) = answers::ended(&ticket, under_way) {
                guard.disarm();
                self.told(&ticket, request, under_way).await?;
                return Err(answer);
            }
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if self.no_wait || is_late {
                guard.disarm();
                let instructions = self.settings.instructions.as_deref();
                return Err(answers::pending(&ticket, instructions, !self.no_wait));
            }
            let wake = Instant::now() + self.settings.poll_every.min(until(now, ticket.expires_at));
            tokio::select! {
                () = changed(&mut changes, id) => {}
                () = sleep_until(deadline.map_or(wake, |deadline| deadline.min(wake))) => {}
                why = &mut over => {
                    // It is only we who go: the ticket stays, and the same request lands on it again.
                    if why == Ended::Draining {
                        guard.disarm();
                        let instructions = self.settings.instructions.as_deref();
                        return Err(answers::pending(&ticket, instructions, !self.no_wait));
                    }
                    return Err(answers::identity_ended(&ticket, why));
                }
            }
        }
    }

    /// The end has been told. What another replica is perhaps still doing, it must tell itself.
    async fn told(&self, ticket: &Ticket, request: &ProposedRequest, under_way: bool) -> Result<(), Refusal> {
        let is_known = match &ticket.state {
            TicketState::Spent { claim, outcome: None, .. } => {
                claim.origin == self.settings.origin && !under_way
            }
            _ => true,
        };
        if !is_known {
            return Ok(());
        }
        if !may_fall_back(request) {
            return self.settings.tickets.answered(&ticket.id).await.map_err(TicketError::into_refusal);
        }
        let (tickets, id) = (self.settings.tickets.clone(), ticket.id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(FALLS_BACK_WITHIN).await;
            // If that fails, the end stays for whoever asks next, and goes with time.
            if let Err(error) = tickets.answered(&id).await {
                tracing::warn!(ticket = %id, %error, "the end of a ticket could not be put away");
            }
        });
        Ok(())
    }

    /// Races with others are no failure: the next look at the ticket tells who won.
    fn tolerate<T>(&self, result: Result<T, TicketError>) -> Result<(), Refusal> {
        match result {
            Ok(_) | Err(TicketError::WrongState(_) | TicketError::Busy) => Ok(()),
            Err(error) => Err(error.into_refusal()),
        }
    }

    /// What people looked at must still be so.
    async fn check_unchanged(&self, claimed: &Claimed, request: &ProposedRequest) -> Result<(), Answer> {
        let ticket = claimed.ticket();
        let seen = ticket.preview.as_ref().and_then(|preview| preview.resource_version.as_ref());
        let (Some(seen), Some(live)) = (seen, &self.settings.live) else { return Ok(()) };
        let now = match timeout(self.settings.preview_within, live.resource_version(request)).await {
            Ok(Ok(version)) => version,
            Ok(Err(LiveError::WouldRefuse { .. })) => None,
            Ok(Err(error)) => return Err(self.unsure(claimed, error.to_string()).await),
            Err(_) => return Err(self.unsure(claimed, "it took too long".into()).await),
        };
        if now.as_ref() == Some(seen) {
            return Ok(());
        }
        claimed
            .withdraw("the object was changed after people looked")
            .await
            .map_err(TicketError::into_refusal)?;
        Err(answers::changed(ticket))
    }

    async fn unsure(&self, claimed: &Claimed, why: String) -> Answer {
        claimed.release().await;
        let refusal =
            Refusal::unavailable("hold/unavailable", "the object cannot be looked at again just now")
                .advice("send the request again: its approval is kept")
                .detail(why)
                .retry_after(Duration::from_secs(1));
        Answer::about(claimed.ticket(), refusal)
    }

    /// Leaves the approval for inner layers, and has it spent: at commit, or at once where nothing commits.
    async fn let_through(&self, claimed: &Claimed, parts: &mut Parts) -> Result<(), Answer> {
        let ticket = claimed.ticket();
        let approval = Approval {
            ticket: ticket.id.clone(),
            rule: ticket.rule.clone(),
            approvers: ticket.approvals.iter().map(|approval| approval.by.user.clone()).collect(),
            approved_at: approved_at(ticket),
            digest: ticket.digest.clone(),
        };
        Trail::of(&parts.extensions).note().approval = Some(approval.clone());
        parts.extensions.insert(approval);
        if self.settings.intents.is_some() {
            let spend = claimed.spender();
            CommitHooks::add(&mut parts.extensions, Box::new(move |receipt| Box::pin(spend(Some(receipt)))));
            return Ok(());
        }
        claimed.spender()(None).await.map_err(|refusal| Answer::about(ticket, refusal))
    }
}

/// Whether a client that is refused may try at once by other means: kubectl takes every answer to a WebSocket handshake
/// but a 101 for that of a server that knows no WebSocket, and sends the same over SPDY. It is to hear the same again,
/// rather than have people asked again.
fn may_fall_back(request: &ProposedRequest) -> bool {
    is_stream(&request.info) && request.method == Method::GET
}

fn approved_at(ticket: &Ticket) -> Timestamp {
    match &ticket.state {
        TicketState::Claimed { approved_at, .. } => *approved_at,
        _ => ticket.created_at,
    }
}

/// From now until then, and a little more, so that it is over afterwards.
fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default() + Duration::from_millis(1)
}

/// Resolves when this ticket has changed in this process, or when nobody can tell any more.
async fn changed(changes: &mut broadcast::Receiver<String>, id: &str) {
    loop {
        match changes.recv().await {
            Ok(changed) if changed != id => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Withdraws the ticket if its client goes away while it waits, where that is wanted.
struct DisconnectGuard(Option<(Arc<Settings>, String)>);

impl DisconnectGuard {
    fn new(settings: &Arc<Settings>, id: &str) -> Self {
        Self(settings.withdraw_on_disconnect.then(|| (settings.clone(), id.to_owned())))
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for DisconnectGuard {
    fn drop(&mut self) {
        if let (Some((settings, id)), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let result = settings.tickets.withdraw_because(&id, None, "its client went away").await;
                if let Err(error) = result {
                    tracing::debug!(ticket = %id, %error, "a ticket was not withdrawn");
                }
            });
        }
    }
}
