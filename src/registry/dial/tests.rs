use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

use super::*;
use crate::registry::client::Client;
use crate::registry::{ClientConfig, Credentials, ErrorKind, HostConfig, ManifestRef, Repository};

/// A proxy for one connection: reads a request's head, says `answer`, then echoes. Gives the head back.
fn proxy(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
        send.send(head).unwrap();
        let mut stream = stream;
        stream.write_all(answer.as_bytes()).unwrap();
        let mut byte = [0];
        while reader.read(&mut byte).unwrap_or(0) == 1 {
            stream.write_all(&byte).unwrap();
        }
    });
    (addr, receive)
}

fn rules(proxy: SocketAddr) -> ProxyRules {
    let value = format!("http://me:hush@{proxy}");
    ProxyRules::from_lookup(|name| matches!(name, "http_proxy" | "https_proxy").then(|| value.clone())).unwrap()
}

async fn dial(proxy: SocketAddr) -> Result<Tcp, BoxError> {
    let uri = "https://registry.test/v2/".parse().unwrap();
    Dialer::new(Duration::from_secs(5), Arc::new(rules(proxy))).call(uri).await
}

#[tokio::test]
async fn tls_goes_through_a_tunnel() {
    let (addr, head) = proxy("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n");
    let tcp = dial(addr).await.unwrap();
    assert!(!tcp.absolute_form);
    let head = head.recv().unwrap();
    assert!(head.starts_with("CONNECT registry.test:443 HTTP/1.1\r\nHost: registry.test:443\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic bWU6aHVzaA==\r\n"), "{head}");
    let mut stream = tcp.io.into_inner();
    stream.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_named() {
    for (answer, word) in
        [("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"), ("nonsense\r\n\r\n", "nonsense")]
    {
        let (addr, _head) = proxy(answer);
        let error = dial(addr).await.unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()) && error.contains(word) && !error.contains("hush"), "{error}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = dial(closed).await.unwrap_err().to_string();
    assert!(error.contains("proxy") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn plain_requests_name_the_whole_address() {
    let (addr, head) = proxy("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let host = HostConfig { plain_http: Some(true), ..HostConfig::default() };
    let config = ClientConfig { hosts: [("registry.test:81".to_owned(), host)].into(), ..ClientConfig::default() };
    let client = Client::with_proxy(config, rules(addr)).unwrap();
    let session = client.session(Repository::new("registry.test:81", "a").unwrap(), Credentials::Anonymous).unwrap();
    let error = session.manifest(&ManifestRef::tag("t").unwrap(), &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let head = head.recv().unwrap();
    assert!(head.starts_with("GET http://registry.test:81/v2/a/manifests/t HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic bwu6ahvzaa=="), "{head}");
}
