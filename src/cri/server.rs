//! Serves both services on a Unix socket, and ends without leaving an operation half done.

mod authority;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::transport::Server;

use self::authority::Deaf;
use super::backend::Backend;
use super::image_service::Images;
use super::observe::Observer;
use super::operations::Operations;
use super::runtime_service::Runtime;
use super::socket::Socket;
use super::v1::image_service_server::ImageServiceServer;
use super::v1::runtime_service_server::RuntimeServiceServer;

/// Bytes of a message that kubelets send and take.
pub const MESSAGE_LIMIT: usize = 16 << 20;
/// Calls under way at a time on one connection: a kubelet has one, and on it a probe or a pull for each container.
const STREAMS: u32 = 4096;
/// Calls that a client may give up in a burst before the connection is taken for an attack. Whoever may connect is root
/// anyway; a kubelet that gives up on a slow disk must not lose its connection too.
const RESETS: usize = STREAMS as usize;
/// How long connections may take to end after the signal, once no operation is under way any more.
const DRAIN: Duration = Duration::from_secs(2);

/// Why serving ended early.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("serving CRI: the listener: {0}")]
    Listen(#[from] io::Error),
    #[error("serving CRI: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves `node` on `socket` until `shutdown` is ready, then takes no further call, and returns when all operations
/// under way are done. Whoever cannot wait that long may drop the future: the operations go on for as long as the
/// process does.
pub async fn serve<B: Backend>(
    node: B,
    mut socket: Socket,
    observer: Arc<dyn Observer>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let Some(listener) = socket.take() else {
        return Err(io::Error::other("the socket is served already").into());
    };
    let incoming = accept(UnixListener::from_std(listener)?);
    let operations = Operations::default();
    let runtime = Runtime::new(node.clone(), operations.clone(), Arc::clone(&observer));
    let images = Images::new(node, operations.clone(), observer);
    // No keepalive: a Unix socket's end is seen at once, and pings would wake an idle node.
    let (ended, end) = watch::channel(false);
    let serving = Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .add_service(
            RuntimeServiceServer::new(runtime)
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(
            ImageServiceServer::new(images)
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(usize::MAX),
        )
        .serve_with_incoming_shutdown(incoming, async move {
            shutdown.await;
            ended.send_replace(true);
        });
    let drained = async {
        let mut end = end;
        let _ = end.wait_for(|ended| *ended).await;
        operations.idle().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = serving => result?,
        // A connection that does not end by itself, such as one with an open stream of events, ends with the process.
        () = drained => {}
    }
    operations.idle().await;
    drop(socket);
    Ok(())
}

/// The connections. One that fails is no reason to stop, and a lack of descriptors none to spin.
fn accept(listener: UnixListener) -> impl Stream<Item = io::Result<Deaf<UnixStream>>> {
    futures_util::stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(Deaf::new(stream)), listener)),
                Err(error) => {
                    tracing::warn!(%error, "could not accept a CRI connection; trying again in 100 ms");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}
