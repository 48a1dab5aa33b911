//! Serves the seeded API server and the identity provider on loopback until interrupted, and writes kubeconfigs.
//!
//! ```text
//! cargo run -p portcullis-testkit --example serve -- /tmp/kubeconfig &
//! kubectl --kubeconfig /tmp/kubeconfig get pods
//! ```

use portcullis_testkit::{ApiServer, Credential, IdentityProvider, TestkitError};

#[tokio::main]
async fn main() -> Result<(), TestkitError> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "kubeconfig".into());
    let server = ApiServer::builder().seed_demo().start().await?;
    let admin = Credential::Token(server.admin_token());
    tokio::fs::write(&path, server.kubeconfig("testkit", &admin, "shop")).await?;
    for (name, group) in [("agent", "agents"), ("developer", "developers"), ("approver", "approvers")] {
        let person = Credential::Token(server.issue_token(name, &[group]));
        tokio::fs::write(format!("{path}-{name}"), server.kubeconfig(name, &person, "shop")).await?;
    }
    let provider = IdentityProvider::builder().authority(server.authority().clone()).start().await?;
    println!("{} (identity provider)", provider.issuer());
    println!("{} (kubeconfig: {path})", server.url());
    tokio::signal::ctrl_c().await?;
    Ok(())
}
