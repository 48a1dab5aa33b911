//! The layer that parks a request until people have decided.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use portcullis_core::{
    Body, BoxError, BoxFuture, Decision, IntentLookup, LiveObjects, Reason, Redactor, Refusal, Verdict,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    copy::{KeepNothing, REASON_HEADER},
    parked::Parked,
    tickets::Tickets,
};

/// `no-wait` in it answers at once with the ticket.
pub(crate) const HOLD_HEADER: HeaderName = HeaderName::from_static("portcullis-hold");

/// Parks requests whose [`Verdict`] says so, until people have decided about them.
///
/// Needs the [`Verdict`] and the [`Identity`](portcullis_core::Identity) of outer layers. Other requests pass untouched.
#[derive(Clone)]
pub struct HoldLayer(Arc<Settings>);

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) tickets: Tickets,
    pub(crate) redactor: Arc<dyn Redactor>,
    pub(crate) live: Option<Arc<dyn LiveObjects>>,
    pub(crate) intents: Option<Arc<dyn IntentLookup>>,
    pub(crate) origin: String,
    pub(crate) hold_for: Duration,
    pub(crate) expires_after: Duration,
    pub(crate) poll_every: Duration,
    pub(crate) preview_within: Duration,
    pub(crate) max_open: u32,
    pub(crate) max_body: usize,
    pub(crate) withdraw_on_disconnect: bool,
    pub(crate) instructions: Option<String>,
    pub(crate) salt: Vec<u8>,
}

impl HoldLayer {
    /// A layer over these tickets. An approval is spent before the inner service is called, and nothing of a request is
    /// kept but its method, path and target: see [`spend_at_commit`](Self::spend_at_commit) and [`redactor`](Self::redactor).
    pub fn new(tickets: Tickets) -> Self {
        Self(Arc::new(Settings {
            tickets,
            redactor: Arc::new(KeepNothing),
            live: None,
            intents: None,
            origin: "local".into(),
            hold_for: Duration::from_secs(50),
            expires_after: Duration::from_secs(3600),
            poll_every: Duration::from_secs(2),
            preview_within: Duration::from_secs(10),
            max_open: 50,
            max_body: 3 << 20,
            withdraw_on_disconnect: false,
            instructions: None,
            salt: Vec::new(),
        }))
    }

    /// Who redacts what tickets keep of a request. Without one, bodies, queries and free text are not kept.
    #[must_use]
    pub fn redactor(self, redactor: Arc<dyn Redactor>) -> Self {
        self.with(|settings| settings.redactor = redactor)
    }

    /// Who tells what a request would do. What the server would refuse, nobody is asked about; and what people looked at
    /// must still be so when the request is let through.
    #[must_use]
    pub fn live_objects(self, live: Arc<dyn LiveObjects>) -> Self {
        self.with(|settings| settings.live = Some(live))
    }

    /// Spends an approval once the request's intent is in the log, by a [`CommitHook`](portcullis_core::CommitHook) that
    /// an inner layer runs; `origin` is this replica's log, `intents` looks into it. A request that is refused before
    /// that gives its approval back.
    ///
    /// Without an inner layer that runs the hooks, approvals would never be spent: use this only above one.
    #[must_use]
    pub fn spend_at_commit(self, origin: impl Into<String>, intents: Arc<dyn IntentLookup>) -> Self {
        self.with(|settings| {
            settings.origin = origin.into();
            settings.intents = Some(intents);
        })
    }

    /// How long a connection is held before its client is told to come back, where the rule does not say; 50 seconds by
    /// default, which is less than what load balancers commonly allow.
    #[must_use]
    pub fn hold_for(self, hold_for: Duration) -> Self {
        self.with(|settings| settings.hold_for = hold_for)
    }

    /// How long a ticket waits for a decision, where the rule does not say; an hour by default.
    #[must_use]
    pub fn expires_after(self, expires_after: Duration) -> Self {
        self.with(|settings| settings.expires_after = expires_after)
    }

    /// How often the store is looked at for what other replicas decided; every 2 seconds by default.
    #[must_use]
    pub fn poll_every(self, poll_every: Duration) -> Self {
        self.with(|settings| settings.poll_every = poll_every.max(Duration::from_millis(10)))
    }

    /// How many requests of one identity may wait at a time, so that nobody tires the approvers out; 50 by default.
    #[must_use]
    pub fn max_open(self, max_open: u32) -> Self {
        self.with(|settings| settings.max_open = max_open.max(1))
    }

    /// How many bytes of a body are read, if nobody has read it yet; 3 MiB by default.
    #[must_use]
    pub fn max_body(self, max_body: usize) -> Self {
        self.with(|settings| settings.max_body = max_body)
    }

    /// Withdraws a ticket when a client that waits for it goes away. By default it stays, and can be approved for when
    /// the client comes back.
    #[must_use]
    pub fn withdraw_on_disconnect(self) -> Self {
        self.with(|settings| settings.withdraw_on_disconnect = true)
    }

    /// What the client is told to do while it waits; `{ticket}` stands for the ticket's id.
    #[must_use]
    pub fn instructions(self, text: impl Into<String>) -> Self {
        self.with(|settings| settings.instructions = Some(text.into()))
    }

    /// Mixed into digests, so that those who read tickets and logs cannot guess short secrets in a body. All replicas
    /// must have the same.
    #[must_use]
    pub fn digest_salt(self, salt: impl Into<Vec<u8>>) -> Self {
        self.with(|settings| settings.salt = salt.into())
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl std::fmt::Debug for HoldLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HoldLayer")
            .field("hold_for", &self.0.hold_for)
            .field("expires_after", &self.0.expires_after)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for HoldLayer {
    type Service = Hold<S>;

    fn layer(&self, inner: S) -> Hold<S> {
        Hold { inner, settings: self.0.clone() }
    }
}

/// The service of a [`HoldLayer`].
#[derive(Clone)]
pub struct Hold<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S: std::fmt::Debug> std::fmt::Debug for Hold<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hold").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Hold<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let mut request = request.map(Body::new);
        let parked = match request.extensions().get::<Verdict>() {
            Some(Verdict { decision: Decision::Hold(terms), .. }) => {
                Some(Parked::new(self.settings.clone(), terms.clone(), &request))
            }
            _ => None,
        };
        // They are for us, and nobody further in.
        for name in [HOLD_HEADER, HeaderName::from_static(REASON_HEADER)] {
            request.headers_mut().remove(name);
        }
        Box::pin(async move {
            let Some(parked) = parked else { return Ok(inner.call(request).await?.map(Body::new)) };
            let (mut parts, body) = request.into_parts();
            let (body, claimed) = match parked.wait(&mut parts, body).await {
                Ok(released) => released,
                Err(answer) => return Ok(answer.into_response(&parts.extensions)),
            };
            let result = inner.call(Request::from_parts(parts, body)).await;
            claimed.settle(result.as_ref().ok().and_then(known_outcome)).await;
            Ok(result?.map(Body::new))
        })
    }
}

/// The status of an answer that tells what became of the request: not one of ours that says the server gave none.
fn known_outcome<R>(response: &Response<R>) -> Option<u16> {
    let is_unknown = response
        .extensions()
        .get::<Refusal>()
        .is_some_and(|refusal| [Reason::BadGateway, Reason::Timeout].contains(&refusal.reason()));
    if is_unknown { None } else { Some(response.status().as_u16()) }
}
