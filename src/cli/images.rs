//! `orlop images`: the images in the store.

use clap::Args;
use serde::Serialize;

use super::client::{EndpointArgs, refused};
use super::output::{OutputArgs, bytes, short_id};
use crate::cri::v1::ListImagesRequest;

/// List images
#[derive(Debug, Args)]
pub(super) struct ImagesArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct Row {
    id: String,
    tags: Vec<String>,
    digests: Vec<String>,
    /// Bytes on disk.
    size: u64,
    pinned: bool,
}

pub(super) async fn run(args: ImagesArgs) -> anyhow::Result<u8> {
    let mut client = args.endpoint.connect().await?;
    let answer = client.images.list_images(ListImagesRequest::default()).await.map_err(refused)?.into_inner();
    let mut rows: Vec<Row> = answer
        .images
        .into_iter()
        .map(|image| Row {
            id: image.id,
            tags: image.repo_tags,
            digests: image.repo_digests,
            size: image.size,
            pinned: image.pinned,
        })
        .collect();
    rows.sort_by(|a, b| (&a.tags, &a.digests).cmp(&(&b.tags, &b.digests)));
    args.output.list(&rows, ["ID", "NAME", "SIZE", "PINNED"], |row| {
        let names = if row.tags.is_empty() { &row.digests } else { &row.tags };
        let name = if names.is_empty() { "-".to_owned() } else { names.join(", ") };
        let pinned = if row.pinned { "yes" } else { "" };
        [short_id(&row.id), name, bytes(row.size), pinned.to_owned()]
    })?;
    Ok(0)
}
