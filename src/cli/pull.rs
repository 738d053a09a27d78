//! `orlop pull`: brings an image, and shows how far it is.
//!
//! CRI has no progress of a pull. The agent tells it over HTTP on http.sock beside the CRI socket (/pulls); where that
//! does not answer, as with another agent, the bar only says that the pull goes on.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use tokio::net::UnixStream;

use super::client::{Client, EndpointArgs, refused};
use super::output;
use crate::cri::v1::{AuthConfig, ImageSpec, PullImageRequest};

/// How often the agent is asked how far it is.
const POLL: Duration = Duration::from_millis(200);

/// Pull an image
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  orlop pull registry.k8s.io/pause:3.10
  orlop pull 127.0.0.1:5000/web@sha256:0123…
  ORLOP_REGISTRY_PASSWORD=… orlop pull --user me registry.example/private/app:1")]
pub(super) struct PullArgs {
    /// The image: NAME, NAME:TAG or NAME@DIGEST
    image: String,
    /// Log in with this name, and the password in ORLOP_REGISTRY_PASSWORD
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
    /// Print nothing but the image's id
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    endpoint: EndpointArgs,
}

pub(super) async fn run(args: PullArgs) -> anyhow::Result<u8> {
    let mut client = args.endpoint.connect().await?;
    let auth = args.user.map(|username| AuthConfig {
        username,
        password: std::env::var("ORLOP_REGISTRY_PASSWORD").unwrap_or_default(),
        ..AuthConfig::default()
    });
    let http = args.endpoint.socket()?.with_file_name("http.sock");
    let id = pull(&mut client, &args.image, auth, &http, args.quiet).await?;
    output::print(&format!("{id}\n"))?;
    Ok(0)
}

/// Pulls `image`, with a bar on a terminal unless `quiet`, and returns its id.
pub(super) async fn pull(
    client: &mut Client,
    image: &str,
    auth: Option<AuthConfig>,
    http: &Path,
    quiet: bool,
) -> anyhow::Result<String> {
    let request = PullImageRequest {
        image: Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() }),
        auth,
        sandbox_config: None,
    };
    let mut images = client.images.clone();
    let pulling = async move { images.pull_image(request).await };
    if quiet || !std::io::stderr().is_terminal() {
        return Ok(pulling.await.map_err(refused)?.into_inner().image_ref);
    }
    let bar = ProgressBar::new_spinner().with_message(image.to_owned());
    bar.enable_steady_tick(POLL);
    let answer = tokio::select! {
        answer = pulling => answer,
        never = watch(&bar, image, http.to_owned()) => match never {},
    };
    bar.finish_and_clear();
    Ok(answer.map_err(refused)?.into_inner().image_ref)
}

/// What /pulls says of one pull.
#[derive(Debug, Deserialize)]
struct Pull {
    image: String,
    /// Bytes received so far.
    bytes: u64,
    /// Bytes in all, once the manifest is here.
    total: Option<u64>,
}

/// Keeps `bar` up to date, for ever.
async fn watch(bar: &ProgressBar, image: &str, http: PathBuf) -> std::convert::Infallible {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    let mut style = style.ok();
    loop {
        tokio::time::sleep(POLL).await;
        // No answer is no news: the pull itself tells of what goes wrong.
        let Ok(pulls) = pulls(&http).await else { continue };
        // The agent says the full name ("docker.io/library/…"), a person often the end of it.
        let Some(pull) = pulls.iter().find(|pull| pull.image == image || pull.image.contains(image)) else { continue };
        if let Some(total) = pull.total.filter(|total| *total > 0) {
            if let Some(style) = style.take() {
                bar.set_style(style);
            }
            bar.set_length(total);
        }
        bar.set_position(pull.bytes);
    }
}

async fn pulls(http: &Path) -> anyhow::Result<Vec<Pull>> {
    let stream = TokioIo::new(UnixStream::connect(http).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/pulls").header("host", "localhost").body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let body = Limited::new(answer.into_body(), 1 << 20).collect().await.map_err(anyhow::Error::from_boxed)?;
    connection.abort();
    Ok(serde_json::from_slice(&body.to_bytes())?)
}
