//! From what a person types to one object: a name, an id, or the beginning of an id.

use anyhow::bail;

use crate::cri::v1::{Container, ContainerState, PodSandbox};

use super::client::Client;
use super::output::short_id;

/// A pod or a container.
#[derive(Debug)]
pub(super) enum Object {
    Pod(PodSandbox),
    Container(Container),
}

/// What is there, read once.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) pods: Vec<PodSandbox>,
    pub(super) containers: Vec<Container>,
}

impl Inventory {
    pub(super) async fn read(client: &mut Client) -> anyhow::Result<Self> {
        Ok(Self { pods: client.pods().await?, containers: client.containers().await? })
    }

    /// The pod that `text` names: a name, NAMESPACE/NAME, or the beginning of an id.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub(super) fn pod(&self, text: &str) -> anyhow::Result<PodSandbox> {
        match self.pods_named(text).as_slice() {
            [] => bail!("no pod is called \"{text}\"; `orlop pods` lists them"),
            [pod] => Ok((*pod).clone()),
            pods => bail!("\"{text}\" is more than one pod: {}", ids(pods.iter().map(|pod| pod.id.as_str()))),
        }
    }

    /// The container that `text` names: a name, POD/NAME, or the beginning of an id. Of several attempts of one
    /// container it is the running one, else the newest.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub(super) fn container(&self, text: &str) -> anyhow::Result<Container> {
        match self.containers_named(text).as_slice() {
            [] if !self.pods_named(text).is_empty() => {
                let pod = self.pod(text)?;
                let inside: Vec<&Container> = latest(self.containers.iter().filter(|c| c.pod_sandbox_id == pod.id));
                match inside.as_slice() {
                    [] => bail!("pod \"{text}\" has no container"),
                    [only] => Ok((*only).clone()),
                    several => bail!(
                        "pod \"{text}\" has several containers; name one: {}",
                        several.iter().map(|c| format!("{text}/{}", name_of(c))).collect::<Vec<_>>().join(", ")
                    ),
                }
            }
            [] => bail!("no container is called \"{text}\"; `orlop ps -a` lists them"),
            [container] => Ok((*container).clone()),
            several => {
                bail!("\"{text}\" is more than one container: {}", ids(several.iter().map(|c| c.id.as_str())))
            }
        }
    }

    /// A pod or a container, whichever `text` names. A container of the same name as its own pod is the pod.
    ///
    /// # Errors
    /// There is none, or more than one, or a pod and a container of another pod share the name.
    pub(super) fn object(&self, text: &str) -> anyhow::Result<Object> {
        let (pods, containers) = (self.pods_named(text), self.containers_named(text));
        let inside = containers.iter().all(|container| pods.iter().any(|pod| pod.id == container.pod_sandbox_id));
        match (pods.is_empty(), containers.is_empty()) {
            (false, _) if inside => Ok(Object::Pod(self.pod(text)?)),
            (true, false) => Ok(Object::Container(self.container(text)?)),
            (true, true) => bail!("neither a pod nor a container is called \"{text}\""),
            (false, _) => bail!("\"{text}\" is a pod, and a container of another; use POD/CONTAINER or an id"),
        }
    }

    /// The name of the pod with this id, or the beginning of the id.
    pub(super) fn pod_name(&self, id: &str) -> String {
        let pod = self.pods.iter().find(|pod| pod.id == id).and_then(|pod| pod.metadata.as_ref());
        pod.map_or_else(|| short_id(id), |metadata| metadata.name.clone())
    }

    fn pods_named(&self, text: &str) -> Vec<&PodSandbox> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let named = |pod: &&PodSandbox| {
            pod.metadata.as_ref().is_some_and(|m| m.name == name && namespace.is_none_or(|n| n == m.namespace))
        };
        let by_name: Vec<&PodSandbox> = self.pods.iter().filter(named).collect();
        if !by_name.is_empty() {
            // A stopped pod that waits for its removal does not hide the one that took its place.
            let ready: Vec<&PodSandbox> = by_name.iter().copied().filter(|pod| pod.state == 0).collect();
            return if ready.len() == 1 { ready } else { by_name };
        }
        self.pods.iter().filter(|pod| begins(&pod.id, text)).collect()
    }

    fn containers_named(&self, text: &str) -> Vec<&Container> {
        let (pod, name) = match text.split_once('/') {
            Some((pod, name)) => (Some(pod), name),
            None => (None, text),
        };
        let in_pod = |container: &Container| {
            pod.is_none_or(|pod| self.pods_named(pod).iter().any(|found| found.id == container.pod_sandbox_id))
        };
        let by_name = latest(self.containers.iter().filter(|c| name_of(c) == name && in_pod(c)));
        if !by_name.is_empty() {
            return by_name;
        }
        self.containers.iter().filter(|container| begins(&container.id, text)).collect()
    }
}

/// One attempt of each container of each pod: the running one, else the newest.
fn latest<'a>(containers: impl Iterator<Item = &'a Container>) -> Vec<&'a Container> {
    let mut chosen: Vec<&Container> = Vec::new();
    for container in containers {
        let same = |other: &&Container| {
            other.pod_sandbox_id == container.pod_sandbox_id && name_of(other) == name_of(container)
        };
        let rank = |c: &Container| (c.state == ContainerState::ContainerRunning as i32, c.created_at);
        match chosen.iter().position(same) {
            Some(at) if rank(container) > rank(chosen[at]) => chosen[at] = container,
            Some(_) => {}
            None => chosen.push(container),
        }
    }
    chosen
}

pub(super) fn name_of(container: &Container) -> &str {
    container.metadata.as_ref().map_or("", |metadata| metadata.name.as_str())
}

fn begins(id: &str, text: &str) -> bool {
    !text.is_empty() && id.starts_with(text)
}

fn ids<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    ids.map(short_id).collect::<Vec<_>>().join(", ")
}
