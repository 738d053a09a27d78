//! `ImageService`: pull, look up, list and remove images, and say how much room they take.

use std::sync::Arc;

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::backend::Backend;
use super::convert::{image, pod};
use super::error::unimplemented;
use super::observe::{Observer, deadline, observe};
use super::operations::Operations;
use super::runtime_service::{answer, later};
use super::v1::image_service_server::ImageService;
use super::v1::*;
use super::validate::{At, required};

/// The service of images.
#[derive(Clone)]
pub struct Images<B> {
    node: B,
    operations: Operations,
    observer: Arc<dyn Observer>,
}

impl<B> std::fmt::Debug for Images<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").field("operations", &self.operations).finish_non_exhaustive()
    }
}

impl<B: Backend> Images<B> {
    /// The service in front of `node`.
    pub fn new(node: B, operations: Operations, observer: Arc<dyn Observer>) -> Self {
        Self { node, operations, observer }
    }

    async fn list(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Status> {
        let images = self.node.list_images(image::filter(request.filter)?).await?;
        Ok(ListImagesResponse { images: images.into_iter().map(image::image_view).collect() })
    }

    /// An image that is not here is an empty answer: kubelets take an error as a failure of the runtime.
    async fn of_one(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Status> {
        let spec = required(request.image).and_then(image::spec).at("image")?;
        let Some(mut view) = self.node.image_status(spec).await? else { return Ok(ImageStatusResponse::default()) };
        let info = std::mem::take(&mut view.info);
        let info = if request.verbose { info } else { Default::default() };
        Ok(ImageStatusResponse { image: Some(image::image_view(view)), info })
    }

    /// Not run as an operation: when the caller gives up, so does its interest in the pull.
    async fn pull(&self, request: PullImageRequest) -> Result<PullImageResponse, Status> {
        let spec = required(request.image).and_then(image::spec).at("image")?;
        let auth = request.auth.map(image::auth).transpose().at("auth")?.flatten();
        // Advice, and often sent half empty: the pull does not depend on it.
        let pod = request.sandbox_config.and_then(|config| pod::pod_config(config, String::new()).ok());
        Ok(PullImageResponse { image_ref: self.node.pull_image(spec, auth, pod).await? })
    }

    async fn remove(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Status> {
        let spec = required(request.image).and_then(image::spec).at("image")?;
        let node = self.node.clone();
        self.operations.run(async move { node.remove_image(spec).await }).await?;
        Ok(RemoveImageResponse {})
    }

    async fn usage(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Status> {
        let (images, containers) = self.node.image_fs_info().await?;
        Ok(ImageFsInfoResponse {
            image_filesystems: images.into_iter().map(image::fs_view).collect(),
            container_filesystems: containers.into_iter().map(image::fs_view).collect(),
        })
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<B: Backend> ImageService for Images<B> {
    async fn list_images(&self, request: Request<ListImagesRequest>) -> Answer<ListImagesResponse> {
        answer!(self, "ListImages", request, list)
    }

    async fn stream_images(&self, _: Request<StreamImagesRequest>) -> Answer<BoxStream<StreamImagesResponse>> {
        later!(self, "StreamImages")
    }

    async fn image_status(&self, request: Request<ImageStatusRequest>) -> Answer<ImageStatusResponse> {
        answer!(self, "ImageStatus", request, of_one)
    }

    async fn pull_image(&self, request: Request<PullImageRequest>) -> Answer<PullImageResponse> {
        answer!(self, "PullImage", request, pull)
    }

    async fn remove_image(&self, request: Request<RemoveImageRequest>) -> Answer<RemoveImageResponse> {
        answer!(self, "RemoveImage", request, remove)
    }

    async fn image_fs_info(&self, request: Request<ImageFsInfoRequest>) -> Answer<ImageFsInfoResponse> {
        answer!(self, "ImageFsInfo", request, usage)
    }
}
