//! A small HTTP/1.1 server on loopback that does exactly what a test tells it, good and bad.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub client_cert: bool,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, q)| q)
    }

    /// The bounds of `Range: bytes=a-b`; an open range has no end.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (a, b) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((a.parse().ok()?, b.parse().ok()))
    }
}

/// An answer, and how to spoil it.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// After so many bytes of the body wait for so long.
    pub stall: Option<(usize, Duration)>,
    /// No Content-Length: the end of the connection is the end of the body.
    pub unannounced: bool,
    /// Close the connection without any answer.
    pub hang_up: bool,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            stall: None,
            unannounced: false,
            hang_up: false,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }

    pub fn stall(mut self, at: usize, time: Duration) -> Self {
        self.stall = Some((at, time));
        self
    }

    pub fn redirect(status: u16, to: &str) -> Self {
        Self::new(status, "").header("location", to)
    }

    pub fn manifest(body: &str) -> Self {
        Self::new(200, body).header("content-type", "application/vnd.oci.image.manifest.v1+json")
    }

    /// The blob, or the part that was asked for.
    pub fn blob(blob: &[u8], seen: &Seen) -> Self {
        match seen.range() {
            Some((start, end)) => {
                let end = end.unwrap_or(blob.len() - 1).min(blob.len() - 1);
                Self::new(206, &blob[start..=end])
                    .header("content-range", &format!("bytes {start}-{end}/{}", blob.len()))
            }
            None => Self::new(200, blob),
        }
    }
}

/// The running server. Stops when dropped.
pub struct Server {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;

impl Server {
    pub fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(None, Arc::new(handler))
    }

    pub fn start_tls(tls: Arc<rustls::ServerConfig>, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::run(Some(tls), Arc::new(handler))
    }

    fn run(tls: Option<Arc<rustls::ServerConfig>>, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (log, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { return };
                let (log, handler, tls) = (Arc::clone(&log), Arc::clone(&handler), tls.clone());
                std::thread::spawn(move || {
                    let _ = match tls {
                        None => serve(stream, false, &log, &handler),
                        Some(config) => serve_tls(stream, config, &log, &handler),
                    };
                });
            }
        });
        Self { addr, seen, stop }
    }

    /// `127.0.0.1:port`, as a registry's name.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self, path_part: &str) -> usize {
        self.seen().iter().filter(|s| s.target.contains(path_part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.addr);
    }
}

fn serve_tls(
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
    log: &Mutex<Vec<Seen>>,
    handler: &Handler,
) -> io::Result<()> {
    let mut stream = stream;
    let mut connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    let client_cert = connection.peer_certificates().is_some();
    let stream = rustls::StreamOwned::new(connection, stream);
    serve(stream, client_cert, log, handler)
}

fn serve<S: Read + Write>(stream: S, client_cert: bool, log: &Mutex<Vec<Seen>>, handler: &Handler) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(mut seen) = read_request(&mut stream)? {
        seen.client_cert = client_cert;
        log.lock().unwrap().push(seen.clone());
        let reply = handler(&seen);
        if reply.hang_up || !write_reply(stream.get_mut(), &seen, &reply)? {
            return Ok(());
        }
    }
    Ok(())
}

fn read_request<S: Read>(stream: &mut BufReader<S>) -> io::Result<Option<Seen>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let mut seen = Seen {
        method: words.next().unwrap_or_default().to_owned(),
        target: words.next().unwrap_or_default().to_owned(),
        ..Seen::default()
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        seen.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if let Some(length) = seen.header("content-length").and_then(|l| l.parse::<usize>().ok()) {
        seen.body = vec![0; length];
        stream.read_exact(&mut seen.body)?;
    } else if seen.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            seen.body.extend_from_slice(&chunk[..size]);
        }
    }
    Ok(Some(seen))
}

/// Whether the connection may be used again.
fn write_reply<S: Write>(stream: &mut S, seen: &Seen, reply: &Reply) -> io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let own_length = reply.headers.iter().any(|(name, _)| name == "content-length");
    if !reply.unannounced && !own_length && reply.status != 204 {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    if seen.method == "HEAD" {
        return Ok(true);
    }
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    match reply.stall {
        Some((at, time)) if at <= body.len() => {
            stream.write_all(&body[..at])?;
            stream.flush()?;
            std::thread::sleep(time);
            stream.write_all(&body[at..])?;
        }
        _ => stream.write_all(body)?,
    }
    stream.flush()?;
    Ok(reply.cut.is_none() && !reply.unannounced)
}
