//! A server in this process, with clients of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use orlop::cri::observe::Observer;
use orlop::cri::server::{ServeError, serve};
use orlop::cri::socket::Socket;
use orlop::cri::v1::image_service_client::ImageServiceClient;
use orlop::cri::v1::runtime_service_client::RuntimeServiceClient;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::fake::Fake;

/// Remembers how each call ended.
#[derive(Default)]
pub struct Seen(Mutex<Vec<(&'static str, Code)>>);

impl Observer for Seen {
    fn observed(&self, rpc: &'static str, code: Code, _: Duration) {
        self.0.lock().unwrap().push((rpc, code));
    }
}

impl Seen {
    pub fn take(&self) -> Vec<(&'static str, Code)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub struct Wire {
    pub node: Fake,
    pub seen: Arc<Seen>,
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    pub channel: Channel,
    pub dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Wire {
    pub async fn new() -> Self {
        let (node, seen) = (Fake::default(), Arc::new(Seen::default()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("orlop.sock");
        let socket = Socket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(node.clone(), socket, seen.clone(), async {
            let _ = stopped.await;
        }));
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let runtime = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        let images = ImageServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        Self { node, seen, runtime, images, channel, dir, stop: Some(stop), served }
    }

    /// Asks the server to end.
    pub fn stop(&mut self) {
        self.stop.take().expect("stopped once").send(()).expect("the server runs");
    }

    /// Waits for the server's end.
    pub async fn ended(self) {
        let wait = tokio::time::timeout(Duration::from_secs(20), self.served);
        wait.await.expect("the server ends").unwrap().unwrap();
    }

    pub fn is_serving(&self) -> bool {
        !self.served.is_finished()
    }
}

/// Takes the one thing that the node was asked, which must be of this shape.
macro_rules! asked {
    ($wire:ident, $pattern:pat => $check:expr) => {
        match $wire.node.only() {
            $pattern => $check,
            other => panic!("asked {other:?}"),
        }
    };
}
pub(crate) use asked;
