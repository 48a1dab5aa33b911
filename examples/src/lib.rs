//! What the examples share: a loopback server that says what to try, and an authenticator that believes everybody.

use std::io;

use axum::Router;
use portcullis_core::{Authenticated, AuthenticationError, Authenticator, BoxFuture, Identity, Liveness};

/// Serves `app` on a free loopback port until interrupted, and prints the commands to try; `{url}` in them is the server's.
///
/// # Errors
///
/// When there is no port to be had.
pub async fn serve(app: Router, commands: &[&str]) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    println!("Serving on {url} until Ctrl-C. Try:\n");
    for command in commands {
        println!("  {}", command.replace("{url}", &url));
    }
    println!();
    axum::serve(listener, app)
        .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
        .await
}

/// Believes everybody: the bearer token `bot` makes its sender `bot`, and `ann.finance` makes them `ann`, in the group
/// `finance`. It keeps examples short that are not about tokens; the `oidc` example has the real thing.
#[derive(Clone, Copy, Debug)]
pub struct InsecureNames;

impl Authenticator for InsecureNames {
    fn authenticate<'a>(
        &'a self,
        token: &'a str,
    ) -> BoxFuture<'a, Result<Authenticated, AuthenticationError>> {
        let (name, group) = token.split_once('.').unwrap_or((token, ""));
        let identity = Identity {
            issuer: "names".into(),
            subject: name.into(),
            user: name.into(),
            groups: Some(group).filter(|group| !group.is_empty()).map(Into::into).into_iter().collect(),
            ..Identity::default()
        };
        let liveness = Liveness::forever();
        Box::pin(std::future::ready(Ok(Authenticated { identity, expires_at: None, liveness })))
    }
}
