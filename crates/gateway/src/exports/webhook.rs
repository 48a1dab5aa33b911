//! The API server's webhook backend, with its configuration
//! (<https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/#webhook-backend>): a kubeconfig whose `server` is the URL to post to.

use std::{path::Path, time::Duration};

use http::{Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use portcullis_core::BoxFuture;
use portcullis_export::{Item, Sink, SinkError, kubernetes::EventWriter};

/// How long the other end may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of its answer is read.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Posts lists of events.
pub(super) struct Webhook {
    client: Client,
    path: String,
    events: EventWriter,
}

impl Webhook {
    pub(super) async fn new(kubeconfig: &Path, events: EventWriter) -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", kubeconfig.display());
        let read = Kubeconfig::read_from(kubeconfig).map_err(|error| wrong(&error))?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let mut config = config.map_err(|error| wrong(&error))?;
        let path = config.cluster_url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let mut origin = config.cluster_url.into_parts();
        origin.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = http::Uri::from_parts(origin).map_err(|error| wrong(&error))?;
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        let client = Client::try_from(config).map_err(|error| wrong(&error))?;
        Ok(Self { client, path, events })
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), SinkError> {
        let failed = |error: &dyn std::fmt::Display| SinkError(format!("the webhook: {error}"));
        let request =
            Request::post(&self.path).header(CONTENT_TYPE, "application/json").body(Body::from(body));
        let sent = self.client.send(request.map_err(|error| failed(&error))?);
        let response = tokio::time::timeout(PATIENCE, sent).await.map_err(|error| failed(&error))?;
        let response = response.map_err(|error| failed(&error))?;
        let status = response.status();
        // Read to its end, so that the connection can be used again.
        let read = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
        match (status.is_success(), read) {
            (true, Ok(_)) => Ok(()),
            (true, Err(error)) => Err(failed(&error)),
            (false, _) => Err(failed(&format!("it answered {status}"))),
        }
    }
}

impl Sink for Webhook {
    fn send<'a>(&'a mut self, items: &'a [Item]) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async move {
            match self.events.list(items) {
                Some(list) => self.post(list.to_string().into_bytes()).await,
                None => Ok(()),
            }
        })
    }
}
