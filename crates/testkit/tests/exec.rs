//! Exec into a pretend pod, over a real WebSocket.

mod support;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode, request};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use portcullis_testkit::ApiServer;
use portcullis_wire::{
    ChannelDecoder, ChannelLayout, Direction, Event, Opcode, StreamKind, Subprotocol, WebSocketLimits,
    encode_frame,
};
use serde_json::Value;
use support::{Client, TestResult};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::form_urlencoded::Serializer;

struct Setup {
    server: ApiServer,
    client: Client,
    pod: String,
}

async fn setup() -> TestResult<Setup> {
    let server = ApiServer::builder().seed_demo().start().await?;
    let client = Client::new(&server)?.token(server.issue_token("dana", &["developers"]).expose());
    let pods = client.get("/api/v1/namespaces/shop/pods").await?.expect(200)?;
    let pod = pods["items"][0]["metadata"]["name"].as_str().ok_or("no pod")?.to_owned();
    Ok(Setup { server, client, pod })
}

impl Setup {
    fn request(&self, command: &[&str], options: &[(&str, &str)], protocol: &str) -> request::Builder {
        let command = command.iter().map(|word| ("command", *word));
        let query = Serializer::new(String::new()).extend_pairs(command).extend_pairs(options).finish();
        let path = format!("/api/v1/namespaces/shop/pods/{}/exec?{query}", self.pod);
        let request = self.client.request(Method::GET, &path);
        let request = request.header("connection", "Upgrade").header("upgrade", "websocket");
        let request = request
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        request.header("sec-websocket-protocol", protocol)
    }

    async fn open(&self, command: &[&str], tty: bool) -> TestResult<Exec> {
        let tty = if tty { "true" } else { "false" };
        let options = [("stdin", "true"), ("stdout", "true"), ("stderr", "true"), ("tty", tty)];
        let request = self.request(command, &options, "v5.channel.k8s.io, v4.channel.k8s.io");
        let response = self.client.raw(request, "").await?;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        let decoder = ChannelDecoder::new(
            Subprotocol::ChannelV5,
            ChannelLayout::RemoteCommand,
            Direction::ServerToClient,
            WebSocketLimits::default(),
        );
        Ok(Exec {
            io: TokioIo::new(hyper::upgrade::on(response).await?),
            decoder,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    /// Runs a command with that input; returns output, errors and exit code.
    async fn run(&self, command: &[&str], stdin: &str) -> TestResult<(String, String, i64)> {
        let mut exec = self.open(command, false).await?;
        exec.send(0, stdin.as_bytes()).await?;
        exec.send(255, &[0]).await?;
        let status = exec.until(|_| false).await?.ok_or("no status")?;
        let code = match status["status"] == "Success" {
            true => 0,
            false => status["details"]["causes"][0]["message"].as_str().unwrap_or_default().parse()?,
        };
        Ok((String::from_utf8(exec.stdout)?, String::from_utf8(exec.stderr)?, code))
    }
}

struct Exec {
    io: TokioIo<Upgraded>,
    decoder: ChannelDecoder,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Exec {
    async fn frame(&mut self, opcode: Opcode, payload: &[u8]) -> TestResult {
        let mut wire = BytesMut::new();
        encode_frame(true, opcode, payload, Some([1, 2, 3, 4]), &mut wire);
        Ok(self.io.write_all(&wire).await?)
    }

    async fn send(&mut self, channel: u8, data: &[u8]) -> TestResult {
        self.frame(Opcode::Binary, &[&[channel], data].concat()).await
    }

    /// Reads until `enough` says so of the output (`None`), or the command's `Status` comes.
    async fn until(&mut self, enough: impl Fn(&str) -> bool) -> TestResult<Option<Value>> {
        loop {
            while let Some(unit) = self.decoder.next_unit()? {
                let Event::Data { stream, data, .. } = unit.event() else { continue };
                match stream.kind {
                    StreamKind::Stdout => self.stdout.extend_from_slice(data),
                    StreamKind::Stderr => self.stderr.extend_from_slice(data),
                    StreamKind::Error => return Ok(Some(serde_json::from_slice(data)?)),
                    _ => {}
                }
            }
            if enough(&String::from_utf8_lossy(&self.stdout)) {
                return Ok(None);
            }
            let mut buffer = vec![0; 4096];
            let read = self.io.read(&mut buffer).await?;
            if read == 0 {
                return Err("the connection ended".into());
            }
            self.decoder.push(Bytes::copy_from_slice(&buffer[..read]));
        }
    }

    /// Types, and reads until the terminal shows `expected`.
    async fn type_and_see(&mut self, typed: &str, expected: &str) -> TestResult {
        self.stdout.clear();
        self.send(0, typed.as_bytes()).await?;
        let over = self.until(|shown| shown.contains(expected)).await?;
        assert!(over.is_none(), "{over:?}");
        Ok(())
    }
}

#[tokio::test]
async fn commands_run_in_the_pretend_pod() -> TestResult {
    let setup = setup().await?;
    let check = async |command: &[&str], stdin: &str, stdout: &str, stderr: &str, code: i64| -> TestResult {
        let expected = (stdout.to_owned(), stderr.to_owned(), code);
        assert_eq!(setup.run(command, stdin).await?, expected, "{command:?}");
        Ok(())
    };
    check(&["echo", "a", "b"], "", "a b\n", "", 0).await?;
    check(&["cat", "/etc/db/username"], "", "shop", "", 0).await?;
    check(&["cat", "/nope"], "", "", "cat: /nope: No such file or directory\n", 1).await?;
    check(&["cat"], "through\nand through", "through\nand through", "", 0).await?;
    check(&["sh", "-c", "false || echo $LOG_LEVEL; exit 9"], "", "info\n", "", 9).await?;
    check(&["sh"], "cd /etc\npwd\nwhoami", "/etc\nroot\n", "", 0).await?;
    check(
        &["sh", "-c", "echo a > /tmp/x"],
        "",
        "",
        "sh: redirections are not supported by this pretend shell\n",
        2,
    )
    .await?;
    check(&["rm", "-rf", "/"], "", "", "sh: rm: not found\n", 127).await?;
    check(&["ls", "/var/run/secrets/kubernetes.io/serviceaccount"], "", "ca.crt\nnamespace\ntoken\n", "", 0)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_terminal_is_one() -> TestResult {
    let setup = setup().await?;
    let mut exec = setup.open(&["sh"], true).await?;
    exec.type_and_see("", "/ # ").await?;
    exec.send(4, br#"{"Width":99,"Height":33}"#).await?;
    exec.type_and_see("stty size\r", "33 99\r\n/ # ").await?;
    exec.type_and_see("cd /etc\r", "/etc # ").await?;
    exec.type_and_see("sleep infinity\r\x03", "^C\r\n/etc # ").await?;
    exec.frame(Opcode::Ping, b"there?").await?;
    exec.send(0, b"exit 4\r").await?;
    let status = exec.until(|_| false).await?.ok_or("no status")?;
    assert_eq!(status["details"]["causes"][0]["message"], "4");
    Ok(())
}

#[tokio::test]
async fn execs_that_cannot_be_are_refused() -> TestResult {
    let setup = setup().await?;
    let out = [("stdout", "true")];
    let check = async |request: request::Builder, code: u16| -> TestResult {
        setup.client.answer(request, "").await?.expect(code).map(drop)
    };
    check(setup.request(&[], &out, "v5.channel.k8s.io"), 400).await?;
    check(setup.request(&["ls"], &[], "v5.channel.k8s.io"), 400).await?;
    check(setup.request(&["ls"], &out, "channel.k8s.io"), 400).await?;
    check(setup.request(&["ls"], &[("stdout", "true"), ("container", "nope")], "v5.channel.k8s.io"), 400)
        .await?;
    let path = format!("/api/v1/namespaces/shop/pods/{}/exec?command=ls&stdout=true", setup.pod);
    let spdy = setup
        .client
        .request(Method::POST, &path)
        .header("connection", "upgrade")
        .header("upgrade", "SPDY/3.1");
    check(spdy, 400).await?;
    check(setup.client.request(Method::GET, &path), 400).await?;
    let amir = setup.server.issue_token("amir", &["approvers"]);
    let request = setup.client.clone().token(amir.expose()).request(Method::GET, &path);
    check(request, 403).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_stops_takes_its_execs_along() -> TestResult {
    let Setup { server, client, pod } = setup().await?;
    let setup = Setup { server, client, pod };
    let mut exec = setup.open(&["sleep", "infinity"], false).await?;
    drop(setup);
    let ended = exec.until(|_| false).await;
    assert!(ended.is_err());
    Ok(())
}
