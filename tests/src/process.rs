//! Programs under a deadline, with their output captured.

use std::future::Future;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long anything may take before its test fails. Generous: it is only ever waited for in vain.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A program that has ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The command, for messages.
    pub command: String,
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Standard output of a program that must have succeeded.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert!(self.status.success(), "{self}");
        self.out()
    }

    /// Standard error of a program that must have failed.
    #[track_caller]
    pub fn fails(&self) -> String {
        assert!(!self.status.success(), "succeeded, and should not have: {self}");
        self.err()
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// The exit code; nothing if a signal ended the program.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Every byte the program wrote, to search for what must not be there.
    pub fn all(&self) -> Vec<u8> {
        [self.stdout.as_slice(), self.stderr.as_slice()].concat()
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}\n{}\n{}", self.command, self.status, self.out(), self.err())
    }
}

/// A running program. Dropping it kills it.
pub struct Running {
    command: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Captured,
    stderr: Captured,
}

/// What a program has written so far.
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    length: watch::Receiver<usize>,
    reader: JoinHandle<()>,
}

impl Captured {
    fn from(mut from: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (grown, length) = watch::channel(0);
        let into = Arc::clone(&bytes);
        let reader = tokio::spawn(async move {
            let mut chunk = vec![0; 32 << 10];
            while let Ok(n @ 1..) = from.read(&mut chunk).await {
                let mut bytes = into.lock().unwrap();
                bytes.extend_from_slice(&chunk[..n]);
                grown.send_replace(bytes.len());
            }
        });
        Self { bytes, length, reader }
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    /// Waits until what has been written satisfies `enough`; returns it.
    async fn until(&mut self, mut enough: impl FnMut(&str) -> bool) -> Result<String, String> {
        loop {
            let text = String::from_utf8_lossy(&self.bytes()).into_owned();
            if enough(&text) {
                return Ok(text);
            }
            if self.length.changed().await.is_err() {
                return Err(text);
            }
        }
    }
}

impl Running {
    /// Starts a program; what it writes is captured from the start.
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let name = describe(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start `{name}`: {error}"));
        Self {
            stdin: child.stdin.take(),
            stdout: Captured::from(child.stdout.take().unwrap()),
            stderr: Captured::from(child.stderr.take().unwrap()),
            child,
            command: name,
        }
    }

    /// Writes to its standard input.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("standard input is closed");
        stdin.write_all(bytes.as_ref()).await.expect("the program reads its input");
        stdin.flush().await.expect("the program reads its input");
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until standard output satisfies `enough`, and returns all of it so far.
    pub async fn wait_for_output(&mut self, enough: impl FnMut(&str) -> bool) -> String {
        match tokio::time::timeout(DEADLINE, self.stdout.until(enough)).await {
            Ok(Ok(text)) => text,
            Ok(Err(text)) => panic!("`{}` ended its output: {text}\n{}", self.command, self.err()),
            Err(_) => panic!("`{}` said too little: {}\n{}", self.command, self.out(), self.err()),
        }
    }

    /// Waits until standard error satisfies `enough`, and returns all of it so far.
    pub async fn wait_for_error(&mut self, enough: impl FnMut(&str) -> bool) -> String {
        match tokio::time::timeout(DEADLINE, self.stderr.until(enough)).await {
            Ok(Ok(text)) => text,
            Ok(Err(text)) => panic!("`{}` ended its output: {}\n{text}", self.command, self.out()),
            Err(_) => panic!("`{}` said too little: {}\n{}", self.command, self.out(), self.err()),
        }
    }

    /// Standard output so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout.bytes()).into_owned()
    }

    /// Standard error so far.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr.bytes()).into_owned()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Closes its input and waits for its end.
    pub async fn finish(mut self) -> Finished {
        self.stdin = None;
        self.ended().await
    }

    /// Asks it to end (SIGTERM).
    pub async fn terminate(&self) {
        self.signal("TERM").await;
    }

    /// Sends it a signal, by `kill(1)`.
    pub async fn signal(&self, name: &str) {
        let pid = self.pid().expect("it is running").to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "no SIG{name} for `{}`", self.command);
    }

    /// Kills it (SIGKILL) and returns what it wrote.
    pub async fn kill(mut self) -> Finished {
        // It may have ended by itself meanwhile, which is as good.
        let _ = self.child.start_kill();
        self.ended().await
    }

    /// Waits for its end with its input left open.
    pub async fn ended(mut self) -> Finished {
        let Ok(status) = tokio::time::timeout(DEADLINE, self.child.wait()).await else {
            panic!("`{}` does not end: {}\n{}", self.command, self.out(), self.err());
        };
        // A grandchild may hold the pipe; what it writes later is nobody's business.
        let drain = Duration::from_secs(5);
        let _ = tokio::time::timeout(drain, &mut self.stdout.reader).await;
        let _ = tokio::time::timeout(drain, &mut self.stderr.reader).await;
        Finished {
            command: self.command,
            status: status.expect("a child's status"),
            stdout: self.stdout.bytes(),
            stderr: self.stderr.bytes(),
        }
    }
}

fn describe(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Asks again and again until there is an answer; fails the test after the deadline.
pub async fn wait_until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(DEADLINE, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// A port on loopback that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}
