//! A node that remembers what it was asked and answers with samples.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orlop::cri::backend::{Backend, Info};
use orlop::node::error::{ErrorKind, NodeError, Result};
use orlop::node::types::{ContainerConfig, ImageSpec, PodConfig};
use orlop::node::views::*;
use tokio::sync::watch;

use crate::sample;

/// One question, with all that came with it.
#[derive(Clone, Debug)]
pub enum Asked {
    RunPod(PodConfig),
    StopPod(String),
    RemovePod(String),
    PodStatus(String),
    ListPods(PodFilter),
    CreateContainer(String, ContainerConfig, Option<PodConfig>),
    StartContainer(String),
    StopContainer(String, i64),
    RemoveContainer(String),
    ContainerStatus(String),
    ListContainers(ContainerFilter),
    ExecSync(String, Vec<String>, Option<Duration>),
    ReopenLog(String),
    ContainerStats(String),
    ListContainerStats(ContainerFilter),
    PodStats(String),
    ListPodStats(PodFilter),
    Status(bool),
    RuntimeConfig,
    UpdateRuntimeConfig(Option<String>),
    PullImage(ImageSpec, Option<PullAuth>, Option<PodConfig>),
    ImageStatus(ImageSpec),
    ListImages(Option<ImageSpec>),
    RemoveImage(ImageSpec),
    ImageFsInfo,
}

#[derive(Clone)]
pub struct Fake(Arc<Inner>);

struct Inner {
    asked: Mutex<Vec<Asked>>,
    /// What every question fails with, if anything.
    error: Mutex<Option<NodeError>>,
    /// Answers are held back while this is true.
    held: watch::Sender<bool>,
    /// How many answers ran to their end, and how many were dropped before.
    ends: watch::Sender<Ends>,
    /// Images of each list.
    pub images: Mutex<Vec<ImageView>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub finished: usize,
    pub dropped: usize,
}

impl Default for Fake {
    fn default() -> Self {
        Self(Arc::new(Inner {
            asked: Mutex::default(),
            error: Mutex::default(),
            held: watch::Sender::new(false),
            ends: watch::Sender::default(),
            images: Mutex::new(vec![sample::image()]),
        }))
    }
}

impl Fake {
    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.0.asked.lock().unwrap())
    }

    /// The one thing that was asked since the last time.
    pub fn only(&self) -> Asked {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked.remove(0)
    }

    pub fn fail(&self, kind: ErrorKind, message: &str) {
        *self.0.error.lock().unwrap() = Some(NodeError::new(kind, message));
    }

    pub fn hold(&self, held: bool) {
        self.0.held.send_replace(held);
    }

    pub fn set_images(&self, images: Vec<ImageView>) {
        *self.0.images.lock().unwrap() = images;
    }

    /// Waits until a question was asked, and leaves it to be taken.
    pub async fn until_asked(&self) {
        while self.0.asked.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn ends(&self) -> Ends {
        *self.0.ends.borrow()
    }

    pub async fn until(&self, right: impl Fn(&Ends) -> bool) -> Ends {
        let mut ends = self.0.ends.subscribe();
        let wait = ends.wait_for(|ends| right(ends));
        *tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the end did not come").unwrap()
    }

    async fn answer<T>(&self, asked: Asked, value: T) -> Result<T> {
        let mut end = End { inner: &self.0, finished: false };
        self.0.asked.lock().unwrap().push(asked);
        let _ = self.0.held.subscribe().wait_for(|held| !held).await;
        end.finished = true;
        match &*self.0.error.lock().unwrap() {
            Some(error) => Err(error.clone()),
            None => Ok(value),
        }
    }
}

struct End<'a> {
    inner: &'a Inner,
    finished: bool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.inner.ends.send_modify(|ends| *(if self.finished { &mut ends.finished } else { &mut ends.dropped }) += 1);
    }
}

fn info() -> Info {
    BTreeMap::from([("info".to_owned(), r#"{"pid":1}"#.to_owned())])
}

impl Backend for Fake {
    async fn run_pod(&self, config: PodConfig) -> Result<String> {
        self.answer(Asked::RunPod(config), sample::POD.to_owned()).await
    }
    async fn stop_pod(&self, id: &str) -> Result<()> {
        self.answer(Asked::StopPod(id.to_owned()), ()).await
    }
    async fn remove_pod(&self, id: &str) -> Result<()> {
        self.answer(Asked::RemovePod(id.to_owned()), ()).await
    }
    async fn pod_status(&self, id: &str) -> Result<(PodView, Vec<ContainerView>, Info)> {
        self.answer(Asked::PodStatus(id.to_owned()), (sample::pod(), vec![sample::container()], info())).await
    }
    async fn list_pods(&self, filter: PodFilter) -> Result<Vec<PodView>> {
        self.answer(Asked::ListPods(filter), vec![sample::pod()]).await
    }
    async fn create_container(&self, id: &str, config: ContainerConfig, pod: Option<PodConfig>) -> Result<String> {
        self.answer(Asked::CreateContainer(id.to_owned(), config, pod), sample::CONTAINER.to_owned()).await
    }
    async fn start_container(&self, id: &str) -> Result<()> {
        self.answer(Asked::StartContainer(id.to_owned()), ()).await
    }
    async fn stop_container(&self, id: &str, timeout_s: i64) -> Result<()> {
        self.answer(Asked::StopContainer(id.to_owned(), timeout_s), ()).await
    }
    async fn remove_container(&self, id: &str) -> Result<()> {
        self.answer(Asked::RemoveContainer(id.to_owned()), ()).await
    }
    async fn container_status(&self, id: &str) -> Result<(ContainerView, Info)> {
        self.answer(Asked::ContainerStatus(id.to_owned()), (sample::container(), info())).await
    }
    async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<ContainerView>> {
        self.answer(Asked::ListContainers(filter), vec![sample::container()]).await
    }
    async fn exec_sync(&self, id: &str, command: Vec<String>, timeout: Option<Duration>) -> Result<ExecOutput> {
        let output = ExecOutput { stdout: vec![0xff, 0], stderr: b"no".to_vec(), exit_code: 3 };
        self.answer(Asked::ExecSync(id.to_owned(), command, timeout), output).await
    }
    async fn reopen_log(&self, id: &str) -> Result<()> {
        self.answer(Asked::ReopenLog(id.to_owned()), ()).await
    }
    async fn container_stats(&self, id: &str) -> Result<ContainerStatsView> {
        self.answer(Asked::ContainerStats(id.to_owned()), sample::container_stats()).await
    }
    async fn list_container_stats(&self, filter: ContainerFilter) -> Result<Vec<ContainerStatsView>> {
        self.answer(Asked::ListContainerStats(filter), vec![sample::container_stats()]).await
    }
    async fn pod_stats(&self, id: &str) -> Result<PodStatsView> {
        self.answer(Asked::PodStats(id.to_owned()), sample::pod_stats()).await
    }
    async fn list_pod_stats(&self, filter: PodFilter) -> Result<Vec<PodStatsView>> {
        self.answer(Asked::ListPodStats(filter), vec![sample::pod_stats()]).await
    }
    async fn status(&self, verbose: bool) -> Result<NodeStatus> {
        let info = if verbose { info() } else { Info::new() };
        self.answer(Asked::Status(verbose), NodeStatus { info, ..sample::node_status() }).await
    }
    async fn runtime_config(&self) -> Result<CgroupDriver> {
        self.answer(Asked::RuntimeConfig, CgroupDriver::Cgroupfs).await
    }
    async fn update_runtime_config(&self, pod_cidr: Option<String>) -> Result<()> {
        self.answer(Asked::UpdateRuntimeConfig(pod_cidr), ()).await
    }
    async fn pull_image(&self, image: ImageSpec, auth: Option<PullAuth>, pod: Option<PodConfig>) -> Result<String> {
        self.answer(Asked::PullImage(image, auth, pod), sample::IMAGE.to_owned()).await
    }
    async fn image_status(&self, image: ImageSpec) -> Result<Option<ImageView>> {
        let found = self.0.images.lock().unwrap().first().cloned();
        self.answer(Asked::ImageStatus(image), found).await
    }
    async fn list_images(&self, image: Option<ImageSpec>) -> Result<Vec<ImageView>> {
        let images = self.0.images.lock().unwrap().clone();
        self.answer(Asked::ListImages(image), images).await
    }
    async fn remove_image(&self, image: ImageSpec) -> Result<()> {
        self.answer(Asked::RemoveImage(image), ()).await
    }
    async fn image_fs_info(&self) -> Result<(Vec<FsUsage>, Vec<FsUsage>)> {
        self.answer(Asked::ImageFsInfo, (vec![sample::fs("/images")], vec![sample::fs("/containers")])).await
    }
}
