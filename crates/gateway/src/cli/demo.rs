//! `portcullis demo`

use std::path::PathBuf;

use anstream::println;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    CliError,
    output::{BOLD, DIM, PLAIN, shell_word},
};
use crate::demo::{World, WorldOptions, check};

#[derive(Debug, Args)]
#[command(after_help = "Nothing is installed, and nothing listens on anything but loopback.\n\n\
    Examples:\n  portcullis demo\n  portcullis demo --check\n  portcullis demo --kubeconfig ~/.kube/config")]
pub(crate) struct DemoArgs {
    /// The gateway's port; a free one by default
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Keep everything in this directory, also afterwards
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Play on a cluster you have, in a namespace of its own, instead of the embedded one
    ///
    /// Its user must be allowed to impersonate, to create namespaces and to change RBAC. What the play puts there is removed
    /// at the end.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Play the whole story without you, say what was seen, and exit non-zero if anything was not as it should be
    #[arg(long)]
    check: bool,
}

pub(crate) async fn demo(args: DemoArgs) -> Result<u8, CliError> {
    let options = WorldOptions { port: args.port, dir: args.dir, kubeconfig: args.kubeconfig };
    let world = World::start(options).await?;
    let code = match args.check {
        true => {
            let failed = check(&world).await?;
            println!();
            match failed {
                0 => println!("everything is as it should be"),
                failed => println!("{failed} steps were not as they should be"),
            }
            u8::from(failed > 0)
        }
        false => {
            invite(&world)?;
            let (mut interrupt, mut terminate) =
                (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            0
        }
    };
    world.stop().await?;
    Ok(code)
}

/// What to try, ready to be copied: nothing has to be filled in.
fn invite(world: &World) -> Result<(), CliError> {
    let url = world.gateway().url();
    let file = |name: &str| shell_word(&world.dir().join(name).to_string_lossy());
    let (approver, ledger) = (file("approver.kubeconfig"), shell_word(&world.ledger().to_string_lossy()));
    let heading = |number: u8, text: &str| println!("\n{BOLD}{number}  {text}{PLAIN}");
    println!("{BOLD}Portcullis demo{PLAIN}  {url}  {DIM}in front of {}{PLAIN}", world.backdrop().describe());
    println!(
        "{DIM}An agent (ci-agent), a developer (dana) and an approver (amir); a kubeconfig for each in {}{PLAIN}",
        world.dir().display()
    );
    println!("{DIM}Where they sign in, without passwords: {}{PLAIN}", world.login_page());
    println!("\nIn another terminal:\n");
    println!("   alias portcullis={}", shell_word(&std::env::current_exe()?.to_string_lossy()));
    println!("   export KUBECONFIG={}", file("agent.kubeconfig"));
    heading(1, "Secrets are masked, for people as for agents");
    println!("   kubectl get secret db-credentials -o yaml");
    println!("   kubectl get secret db-credentials -o yaml --kubeconfig {}", file("developer.kubeconfig"));
    heading(2, "A risky command waits for a human");
    println!("   kubectl create clusterrolebinding oops --clusterrole=cluster-admin --user=ci-agent &");
    println!(
        "   until TICKET=$(portcullis approvals list -o name --kubeconfig {approver} | grep -m 1 .); do sleep 1; done"
    );
    println!("   portcullis approvals list --kubeconfig {approver}");
    println!("   portcullis approvals show \"$TICKET\" --kubeconfig {approver}");
    println!("   portcullis approvals approve \"$TICKET\" --kubeconfig {approver}");
    heading(3, "Sessions are recorded");
    println!("   kubectl exec -it deploy/web -- sh");
    println!("   portcullis audit tail --ledger {ledger}");
    heading(4, "A credential lives as long as its task");
    println!("   portcullis run --gateway {url} --certificate-authority {} \\", file("ca.crt"));
    println!(
        "       --token-file {} --grant deploy -- kubectl get pods -n {}",
        file("agent.token"),
        world.backdrop().namespace()
    );
    println!("   portcullis grants list --all --kubeconfig {approver}");
    heading(5, "The evidence can be proven");
    println!("   portcullis audit verify --ledger {ledger}");
    println!("\n{DIM}The configuration is {}. Ctrl-C ends the demo.{PLAIN}", file("portcullis.yaml"));
    Ok(())
}
