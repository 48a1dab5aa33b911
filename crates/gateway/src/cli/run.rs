//! `portcullis run`: a credential that exists for exactly as long as a command runs.
//!
//! The command gets a kubeconfig whose credential plugin asks *this process*, over a socket only its user can open. The
//! OIDC token and the renewal secret stay here; when the command ends, by itself, by a signal or by a crash, the grant is
//! revoked. If this process dies too, nobody renews the lease, and the gateway revokes the grant by itself.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use tokio::{
    io::AsyncWriteExt,
    net::UnixListener,
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use super::{CliError, Failure};
use crate::{
    client::{ClientError, Gateway, GatewayArgs},
    grants::{ExecCredential, GrantRequest, Issued, renew, revoke},
    kubeconfig::{KubeconfigSpec, UserAuth},
};

/// Environment variables that hold the job's own OIDC token, or the means to get one. The command does not need them.
const SCRUBBED: [&str; 6] = [
    "PORTCULLIS_TOKEN",
    "PORTCULLIS_TOKEN_FILE",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "CI_JOB_JWT",
    "CI_JOB_JWT_V2",
];

/// Run a command with a credential that ends when the command does
///
/// Nothing in the command changes: it finds a kubeconfig in $KUBECONFIG that points to the gateway.
///
/// Exit codes: the command's own; 128+N if signal N ended it; 69 if the gateway cannot be reached; 77 if it refused the grant.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  portcullis run --gateway https://gw:8443 --grant deploy --ttl 15m -- make deploy"
)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(super) gateway: GatewayArgs,
    #[command(flatten)]
    pub(super) request: GrantRequest,
    /// The cluster to work on, if the gateway has several
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// The namespace commands work in without `-n`
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// The command, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command. Returns its exit code.
pub(crate) async fn run(args: RunArgs) -> Result<u8, CliError> {
    let gateway = args.gateway.connect_anonymously().await?;
    let issued = args.request.exchange(&gateway, &args.gateway).await?;
    eprintln!(
        "portcullis: grant {} ({}) until {}",
        issued.grant_id,
        args.request.grant,
        issued.expires_at.strftime("%H:%M:%SZ")
    );
    let result = with_grant(&args, &gateway, &issued).await;
    // Whatever happened, the grant ends here.
    match revoke(&gateway, &issued).await {
        Ok(()) => eprintln!("portcullis: grant {} revoked", issued.grant_id),
        Err(error) => eprintln!(
            "portcullis: grant {} could not be revoked ({error}); the gateway revokes it when its lease runs out",
            issued.grant_id
        ),
    }
    result
}

async fn with_grant(args: &RunArgs, gateway: &Gateway, issued: &Issued) -> Result<u8, CliError> {
    let dir = tempfile::Builder::new().prefix("portcullis-").tempdir()?;
    let socket = dir.path().join("credential.sock");
    let kubeconfig = dir.path().join("kubeconfig");
    write_kubeconfig(args, gateway, &kubeconfig, &socket)?;

    let current = Arc::new(Mutex::new(Some(issued.credential())));
    let serving = tokio::spawn(serve_credential(UnixListener::bind(&socket)?, current.clone()));
    let renewing = tokio::spawn(keep_alive(gateway.clone(), issued.clone(), current));
    let ended = supervise(args, &kubeconfig).await;
    serving.abort();
    renewing.abort();
    ended
}

fn write_kubeconfig(args: &RunArgs, gateway: &Gateway, path: &Path, socket: &Path) -> Result<(), CliError> {
    let authority = match &args.gateway.certificate_authority {
        Some(file) => Some(std::fs::read_to_string(file)?),
        None => None,
    };
    let server = match &args.cluster {
        Some(cluster) => format!("{}/clusters/{cluster}", gateway.url()),
        None => gateway.url().to_owned(),
    };
    let program = std::env::current_exe()?;
    let spec = KubeconfigSpec {
        name: "portcullis".into(),
        server,
        certificate_authority: authority,
        namespace: args.namespace.clone(),
        auth: UserAuth::Exec {
            command: program.display().to_string(),
            args: vec!["credential".into(), "--socket".into(), socket.display().to_string()],
        },
    };
    Ok(spec.write(path)?)
}

/// Hands the credential to whoever may open the socket: the directory it is in belongs to our user alone.
async fn serve_credential(listener: UnixListener, current: Arc<Mutex<Option<ExecCredential>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let answer = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // No credential, no answer: the plugin then says that the grant has ended.
        if let Some(answer) = answer.and_then(|credential| serde_json::to_vec(&credential).ok()) {
            let _ = stream.write_all(&answer).await;
        }
    }
}

/// Renews the lease until the gateway says that the grant is over.
async fn keep_alive(gateway: Gateway, issued: Issued, current: Arc<Mutex<Option<ExecCredential>>>) {
    let every = issued.heartbeat();
    loop {
        tokio::time::sleep(every).await;
        match renew(&gateway, &issued).await {
            Ok(()) => {}
            Err(ClientError::Refused { message, .. }) => {
                eprintln!("portcullis: grant {} has ended: {message}", issued.grant_id);
                *current.lock().unwrap_or_else(PoisonError::into_inner) = None;
                return;
            }
            // The next heartbeat may get through; if none does, the gateway ends the grant.
            Err(error) => eprintln!("portcullis: the lease could not be renewed: {error}"),
        }
    }
}

/// Runs the command to its end; passes on the signals that are meant for it.
async fn supervise(args: &RunArgs, kubeconfig: &PathBuf) -> Result<u8, CliError> {
    let (program, arguments) = args.command.split_first().ok_or_else(|| Failure::usage("no command"))?;
    let mut command = Command::new(program);
    command.args(arguments).env("KUBECONFIG", kubeconfig).kill_on_drop(true);
    for name in SCRUBBED {
        command.env_remove(name);
    }
    if let Some(name) = &args.request.token_env {
        command.env_remove(name);
    }
    let mut child = command
        .spawn()
        .map_err(|error| Failure::new(127, format!("cannot run {}: {error}", program.to_string_lossy())))?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(exit_code(status?)),
            // A terminal sends its interrupt to the whole foreground group; the command has it already.
            _ = interrupt.recv() => {}
            _ = terminate.recv() => pass_on(&child, "TERM").await,
            _ = hangup.recv() => pass_on(&child, "HUP").await,
        }
    }
}

/// Sends a signal to the command. By `kill(1)`, since sending one ourselves would need `unsafe`.
async fn pass_on(child: &Child, name: &str) {
    if let Some(id) = child.id() {
        let sent = Command::new("kill").args(["-s", name, &id.to_string()]).status();
        if tokio::time::timeout(Duration::from_secs(5), sent).await.is_err() {
            eprintln!("portcullis: SIG{name} could not be passed on");
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
