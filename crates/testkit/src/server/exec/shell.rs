//! The pretend shell and its handful of commands.

use std::{sync::Arc, time::Duration};

use super::{
    files::{Files, absolute},
    script::{self, When},
    session::{Fd, Terminal},
    terminal::{LineEditor, Typed},
};
use crate::server::Core;

/// A shell in a pod.
pub(super) struct Shell {
    core: Arc<Core>,
    hostname: String,
    environment: Vec<(String, String)>,
    files: Files,
    directory: String,
    last: i32,
}

/// The far end went away: nobody to run anything for.
pub(super) struct Gone;

/// How a command ended: its exit code, and whether the shell itself is over.
struct Ended {
    code: i32,
    exit: bool,
}

impl Shell {
    pub(super) fn new(
        core: Arc<Core>,
        hostname: String,
        environment: Vec<(String, String)>,
        files: Files,
    ) -> Self {
        Self { core, hostname, environment, files, directory: "/".into(), last: 0 }
    }

    /// Runs what an exec asked for, and returns its exit code.
    pub(super) async fn run(&mut self, argv: &[String], terminal: &mut Terminal) -> Result<i32, Gone> {
        Ok(self.command(argv, terminal).await?.code)
    }

    async fn command(&mut self, argv: &[String], terminal: &mut Terminal) -> Result<Ended, Gone> {
        let [name, rest @ ..] = argv else { return Ok(Ended { code: 0, exit: false }) };
        let code = match (name.rsplit('/').next().unwrap_or_default(), rest) {
            ("sh" | "bash" | "ash", _) => self.shell(rest, terminal).await?,
            ("exit", [code]) => {
                return Ok(Ended { code: code.parse::<u8>().map(i32::from).unwrap_or(2), exit: true });
            }
            ("exit", _) => return Ok(Ended { code: self.last, exit: true }),
            ("cat", []) => self.copy(terminal).await?,
            ("cat", paths) => self.cat(paths, terminal).await?,
            ("ls", rest) => self.ls(rest, terminal).await?,
            ("sleep", [length]) => self.sleep(length, terminal).await?,
            ("stty", [size]) if size == "size" => {
                let (rows, columns) = terminal.size();
                self.say(terminal, &format!("{rows} {columns}\n")).await?
            }
            ("cd", rest) => self.cd(rest.first().map(String::as_str).unwrap_or("/root"), terminal).await?,
            ("export", rest) => {
                for (name, value) in rest.iter().filter_map(|pair| pair.split_once('=')) {
                    self.environment.retain(|(known, _)| known != name);
                    self.environment.push((name.into(), value.into()));
                }
                0
            }
            ("echo", [flag, words @ ..]) if flag == "-n" => self.say(terminal, &words.join(" ")).await?,
            ("echo", words) => self.say(terminal, &format!("{}\n", words.join(" "))).await?,
            ("printenv", [name]) => match self.variable(name) {
                Some(value) => self.say(terminal, &format!("{value}\n")).await?,
                None => 1,
            },
            ("env" | "printenv", []) => {
                let all: String =
                    self.environment.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
                self.say(terminal, &all).await?
            }
            ("pwd", []) => self.say(terminal, &format!("{}\n", self.directory)).await?,
            ("whoami", []) => self.say(terminal, "root\n").await?,
            ("id", []) => self.say(terminal, "uid=0(root) gid=0(root) groups=0(root)\n").await?,
            ("hostname", []) => self.say(terminal, &format!("{}\n", self.hostname)).await?,
            ("uname", []) => self.say(terminal, "Linux\n").await?,
            ("uname", [flag]) if flag == "-a" => {
                self.say(terminal, &format!("Linux {} 0.0.0 pretend x86_64 GNU/Linux\n", self.hostname))
                    .await?
            }
            ("date", []) => {
                let now = self.core.store.now().strftime("%a %b %e %H:%M:%S UTC %Y\n").to_string();
                self.say(terminal, &now).await?
            }
            ("true" | ":", _) => 0,
            ("false", _) => 1,
            (
                "sleep" | "stty" | "printenv" | "env" | "pwd" | "whoami" | "id" | "hostname" | "uname"
                | "date",
                _,
            ) => {
                self.complain(
                    terminal,
                    &format!("{name}: these arguments are not supported by this pretend shell"),
                    2,
                )
                .await?
            }
            _ => self.complain(terminal, &format!("sh: {name}: not found"), 127).await?,
        };
        Ok(Ended { code, exit: false })
    }

    async fn say(&self, terminal: &mut Terminal, text: &str) -> Result<i32, Gone> {
        terminal.write(Fd::Stdout, text.as_bytes()).await?;
        Ok(0)
    }

    async fn complain(&self, terminal: &mut Terminal, text: &str, code: i32) -> Result<i32, Gone> {
        terminal.write(Fd::Stderr, format!("{text}\n").as_bytes()).await?;
        Ok(code)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// `sh -c LINE`, or a shell that reads its lines from standard input: with a prompt on a terminal, silently else.
    async fn shell(&mut self, arguments: &[String], terminal: &mut Terminal) -> Result<i32, Gone> {
        match arguments {
            [flag, line, ..] if flag == "-c" => Ok(Box::pin(self.line(line, terminal)).await?.code),
            [] => Box::pin(self.interactive(terminal)).await,
            [flag] if ["-i", "-l"].contains(&flag.as_str()) => Box::pin(self.interactive(terminal)).await,
            [other, ..] => {
                self.complain(terminal, &format!("sh: {other}: not supported by this pretend shell"), 2).await
            }
        }
    }

    async fn line(&mut self, line: &str, terminal: &mut Terminal) -> Result<Ended, Gone> {
        let variable = |name: &str| match name {
            "?" => self.last.to_string(),
            "$" => "7".to_owned(),
            name => self.variable(name).unwrap_or_default().to_owned(),
        };
        let commands = match script::parse(line, variable) {
            Ok(commands) => commands,
            Err(why) => {
                self.last = self.complain(terminal, &format!("sh: {why}"), 2).await?;
                return Ok(Ended { code: self.last, exit: false });
            }
        };
        for command in commands {
            let runs = match command.when {
                When::Always => true,
                When::Succeeded => self.last == 0,
                When::Failed => self.last != 0,
            };
            if runs {
                let ended = self.command(&command.words, terminal).await?;
                self.last = ended.code;
                if ended.exit {
                    return Ok(ended);
                }
            }
        }
        Ok(Ended { code: self.last, exit: false })
    }

    async fn interactive(&mut self, terminal: &mut Terminal) -> Result<i32, Gone> {
        let mut editor = LineEditor::default();
        self.last = 0;
        self.prompt(terminal).await?;
        let mut typed = Vec::new();
        while let Some(byte) = terminal.byte().await {
            let mut echo = Vec::new();
            let line = if terminal.is_tty() {
                let line = editor.push(byte, &mut echo);
                terminal.write(Fd::Stdout, &echo).await?;
                line
            } else if byte == b'\n' {
                Some(Typed::Line(String::from_utf8_lossy(&std::mem::take(&mut typed)).into_owned()))
            } else {
                typed.push(byte);
                None
            };
            match line {
                None => continue,
                Some(Typed::End) => {
                    terminal.write(Fd::Stdout, b"\n").await?;
                    return Ok(self.last);
                }
                Some(Typed::Interrupt) => self.last = 130,
                Some(Typed::Line(line)) => {
                    let ended = self.line(&line, terminal).await?;
                    if ended.exit {
                        return Ok(ended.code);
                    }
                }
            }
            self.prompt(terminal).await?;
        }
        // The last line of a script need not be ended.
        let rest = String::from_utf8_lossy(&typed).into_owned();
        Ok(self.line(&rest, terminal).await?.code)
    }

    async fn prompt(&self, terminal: &mut Terminal) -> Result<(), Gone> {
        if terminal.is_tty() {
            terminal.write(Fd::Stdout, format!("{} # ", self.directory).as_bytes()).await?;
        }
        Ok(())
    }

    /// `cat` without files: what comes in goes out, until it ends.
    async fn copy(&mut self, terminal: &mut Terminal) -> Result<i32, Gone> {
        if !terminal.is_tty() {
            while let Some(bytes) = terminal.bytes().await {
                terminal.write(Fd::Stdout, &bytes).await?;
            }
            return Ok(0);
        }
        let mut editor = LineEditor::default();
        while let Some(byte) = terminal.byte().await {
            let mut echo = Vec::new();
            let typed = editor.push(byte, &mut echo);
            terminal.write(Fd::Stdout, &echo).await?;
            match typed {
                None => {}
                Some(Typed::Line(line)) => terminal.write(Fd::Stdout, format!("{line}\n").as_bytes()).await?,
                Some(Typed::Interrupt) => return Ok(130),
                Some(Typed::End) => return Ok(0),
            }
        }
        Ok(0)
    }

    async fn cat(&mut self, paths: &[String], terminal: &mut Terminal) -> Result<i32, Gone> {
        let mut code = 0;
        for path in paths {
            let full = absolute(&self.directory, path);
            code = match self.files.read(&full) {
                Some(contents) => {
                    terminal.write(Fd::Stdout, contents).await?;
                    code
                }
                None if self.files.is_directory(&full) => {
                    self.complain(terminal, &format!("cat: {path}: Is a directory"), 1).await?
                }
                None => {
                    self.complain(terminal, &format!("cat: {path}: No such file or directory"), 1).await?
                }
            };
        }
        Ok(code)
    }

    async fn ls(&mut self, arguments: &[String], terminal: &mut Terminal) -> Result<i32, Gone> {
        let (flags, paths): (Vec<_>, Vec<_>) = arguments.iter().partition(|one| one.starts_with('-'));
        let letters: String = flags.iter().flat_map(|flag| flag.chars().skip(1)).collect();
        if let Some(unknown) = letters.chars().find(|letter| !"1la".contains(*letter)) {
            let why = format!("ls: -{unknown} is not supported by this pretend shell");
            return self.complain(terminal, &why, 2).await;
        }
        let here = ".".to_owned();
        let paths = if paths.is_empty() { vec![&here] } else { paths };
        let mut code = 0;
        for path in paths {
            let full = absolute(&self.directory, path);
            let names: Vec<String> = match self.files.list(&full) {
                Some(names) => names.into_iter().collect(),
                None if self.files.read(&full).is_some() => vec![path.clone()],
                None => {
                    code =
                        self.complain(terminal, &format!("ls: {path}: No such file or directory"), 1).await?;
                    continue;
                }
            };
            let mut listing = String::new();
            for name in names.iter().filter(|name| letters.contains('a') || !name.starts_with('.')) {
                let plain = name.trim_end_matches('/');
                if letters.contains('l') {
                    let size = self.files.read(&absolute(&full, plain)).map(<[u8]>::len).unwrap_or(4096);
                    let mode = if name.ends_with('/') { "drwxr-xr-x" } else { "-rw-r--r--" };
                    listing
                        .push_str(&format!("{mode}    1 root     root     {size:>9} Jan  1 00:00 {plain}\n"));
                } else {
                    listing.push_str(&format!("{plain}\n"));
                }
            }
            self.say(terminal, &listing).await?;
        }
        Ok(code)
    }

    async fn cd(&mut self, path: &str, terminal: &mut Terminal) -> Result<i32, Gone> {
        let full = absolute(&self.directory, path);
        if full == "/" || self.files.is_directory(&full) {
            self.directory = full;
            return Ok(0);
        }
        self.complain(terminal, &format!("sh: cd: can't cd to {path}"), 2).await
    }

    /// Waits: so many seconds, or `infinity`. Ctrl-C ends it.
    async fn sleep(&mut self, length: &str, terminal: &mut Terminal) -> Result<i32, Gone> {
        let length = match length.parse::<u32>() {
            Ok(seconds) => Duration::from_secs(seconds.into()),
            Err(_) if length == "infinity" => Duration::MAX,
            Err(_) => return self.complain(terminal, &format!("sleep: invalid number {length:?}"), 1).await,
        };
        let interrupted = tokio::time::timeout(length, terminal.interrupted()).await.is_ok();
        if interrupted {
            terminal.write(Fd::Stdout, b"^C\n").await?;
            return Ok(130);
        }
        Ok(0)
    }
}
