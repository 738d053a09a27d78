//! The lowest layer: a TCP connection, directly or through a proxy, and reads that take all there is.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower::Service;

use super::proxy::{Proxy, ProxyRules};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Opens TCP connections; goes through a proxy where the rules say so.
#[derive(Clone)]
pub(crate) struct Dialer {
    tcp: HttpConnector,
    proxy: Arc<ProxyRules>,
}

impl Dialer {
    pub(crate) fn new(connect: Duration, proxy: Arc<ProxyRules>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        Self { tcp, proxy }
    }
}

impl Service<Uri> for Dialer {
    type Response = Tcp;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Tcp, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let proxy = self.proxy.for_uri(&uri);
        Box::pin(async move {
            let Some(proxy) = proxy else {
                let io = tcp.call(uri).await?;
                return Ok(Tcp { io, absolute_form: false });
            };
            let io = tcp.call(proxy.uri.clone()).await.map_err(|e| proxy_error(&proxy, &e))?;
            if uri.scheme_str() == Some("https") {
                let mut stream = io.into_inner();
                tunnel(&mut stream, &uri, &proxy).await?;
                return Ok(Tcp { io: TokioIo::new(stream), absolute_form: false });
            }
            Ok(Tcp { io, absolute_form: true })
        })
    }
}

fn proxy_error(proxy: &Proxy, error: &dyn std::error::Error) -> BoxError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    io::Error::other(format!("proxy {}: {text}", super::origin::redacted(&proxy.uri))).into()
}

/// Asks the proxy for a connection to the host (RFC 9110, 9.3.6).
async fn tunnel(stream: &mut TcpStream, uri: &Uri, proxy: &Proxy) -> Result<(), BoxError> {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(443);
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    // Byte by byte would be slow, but the answer is short and nothing follows it before we speak.
    let mut head = Vec::with_capacity(512);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 16 << 10 || stream.read_buf(&mut head).await? == 0 {
            return Err(proxy_error(proxy, &io::Error::other("closed the connection or talks without end")));
        }
    }
    let line = String::from_utf8_lossy(&head);
    let line = super::text::printable(line.lines().next().unwrap_or_default(), 120);
    if line.split(' ').nth(1).is_some_and(|code| code.len() == 3 && code.starts_with('2')) {
        Ok(())
    } else {
        Err(proxy_error(proxy, &io::Error::other(format!("refuses to connect to {host}:{port}: {line}"))))
    }
}

/// A TCP connection.
#[derive(Debug)]
pub(crate) struct Tcp {
    io: TokioIo<TcpStream>,
    /// Requests must name the whole address, for they go to a proxy.
    absolute_form: bool,
}

impl Connection for Tcp {
    fn connected(&self) -> Connected {
        self.io.inner().connected().proxy(self.absolute_form)
    }
}

impl Read for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

/// A connection that fills the reader's buffer as far as there are bytes, instead of returning after each TLS record
/// (16 KiB at most): one wake-up of the reader then carries many records.
#[derive(Debug)]
pub(crate) struct Greedy(MaybeHttpsStream<Tcp>);

impl Greedy {
    pub(crate) fn new(inner: MaybeHttpsStream<Tcp>) -> Self {
        Self(inner)
    }
}

impl Connection for Greedy {
    fn connected(&self) -> Connected {
        self.0.connected()
    }
}

impl Read for Greedy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        // A cursor cannot be lent twice, so single reads go through the plain path where TLS has no records to join.
        if matches!(self.0, MaybeHttpsStream::Http(_)) {
            return Pin::new(&mut self.0).poll_read(cx, buf);
        }
        let mut block = [std::mem::MaybeUninit::uninit(); RECORD];
        let mut filled = false;
        while buf.remaining() > 0 {
            let room = buf.remaining().min(RECORD);
            let mut part = hyper::rt::ReadBuf::uninit(&mut block[..room]);
            match Pin::new(&mut self.0).poll_read(cx, part.unfilled()) {
                Poll::Ready(Ok(())) if part.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {
                    buf.put_slice(part.filled());
                    filled = true;
                }
                // The error or the waker comes again with the next read.
                _ if filled => return Poll::Ready(Ok(())),
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }
}

const RECORD: usize = 16 << 10;

impl Write for Greedy {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests;
