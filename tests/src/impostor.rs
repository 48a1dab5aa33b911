//! An upstream that is no API server: it answers what the test says, byte by byte.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::ca::TestCa;
use crate::kubeconfig::Kubeconfig;

/// What an impostor does with a request, one step after the other. After the last it hangs up in good order.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends so many bytes of text, as fast as they are taken.
    Flood(usize),
    /// Does nothing until [`Impostor::go_on`].
    Wait,
    /// Drops the connection, without a goodbye in TLS and with a reset in TCP.
    Reset,
}

/// A TLS server that reads one request's head and then does as told, on each connection.
pub struct Impostor {
    url: String,
    ca: TestCa,
    requests: Arc<Mutex<Vec<String>>>,
    flooded: Arc<AtomicUsize>,
    released: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Impostor {
    /// Starts one.
    pub async fn start(steps: Vec<Step>) -> Self {
        Self::offering(&[], steps).await
    }

    /// Starts one that offers these protocols (ALPN). Of HTTP/2 it reads as much as looks like the head of a request: the preface.
    pub async fn offering(protocols: &[&str], steps: Vec<Step>) -> Self {
        let ca = TestCa::new();
        let issued = ca.issue("impostor");
        let cert = CertificateDer::from_pem_file(&issued.cert).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(&issued.key).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![cert], key)
            .expect("a certificate and its key");
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("https://{}", listener.local_addr().expect("a bound socket has an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (released, release) = watch::channel(false);
        let flooded = Arc::new(AtomicUsize::new(0));
        let (steps, seen, count) = (Arc::new(steps), Arc::clone(&requests), Arc::clone(&flooded));
        let serving = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, steps) = (acceptor.clone(), Arc::clone(&steps));
                let (seen, count, release) = (Arc::clone(&seen), Arc::clone(&count), release.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                    if let Some(head) = read_head(&mut stream).await {
                        seen.lock().unwrap().push(head);
                        play(stream, &steps, &count, release).await;
                    }
                });
            }
        });
        Self { url, ca, requests, flooded, released, serving }
    }

    /// A kubeconfig, in this directory, that leads here.
    pub fn kubeconfig(&self, dir: &Path, name: &str) -> PathBuf {
        Kubeconfig::new(&self.url, self.ca.pem()).token("impostors-own").write(dir.join(name))
    }

    /// The heads of the requests that came.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// How many bytes of [`Step::Flood`] have been taken.
    pub fn flooded(&self) -> usize {
        self.flooded.load(Ordering::SeqCst)
    }

    /// Ends every [`Step::Wait`], now and later.
    pub fn go_on(&self) {
        self.released.send_replace(true);
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn read_head(stream: &mut TlsStream<TcpStream>) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

async fn play(
    mut stream: TlsStream<TcpStream>,
    steps: &[Step],
    flooded: &AtomicUsize,
    mut release: watch::Receiver<bool>,
) {
    for step in steps {
        match step {
            Step::Send(bytes) => {
                let sent = stream.write_all(bytes).await;
                if sent.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Step::Flood(bytes) => {
                let chunk = b"0123456789abcdef 0123456789abcdef 0123456789abcdef 0123456789\n".repeat(512);
                let mut left = *bytes;
                while left > 0 {
                    let next = left.min(chunk.len());
                    if stream.write_all(&chunk[..next]).await.is_err() {
                        return;
                    }
                    left -= next;
                    flooded.fetch_add(next, Ordering::SeqCst);
                }
            }
            // The test may have ended meanwhile.
            Step::Wait => drop(release.wait_for(|released| *released).await),
            Step::Reset => {
                let (tcp, _) = stream.into_inner();
                let _ = tcp.set_zero_linger();
                return;
            }
        }
    }
    let _ = stream.shutdown().await;
}
