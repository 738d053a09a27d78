//! A CNI client, spec 1.1: pods are attached by plugins, programs that a network configuration names.
//!
//! The configuration directory is looked at whenever it matters (at each status and each new pod): one readdir and a
//! stat a file. So a change of any kind is seen at once, whether the directory appeared, was replaced, or is a link
//! that was swapped, and there is no watch that could be lost.

mod arguments;
mod cache;
mod chain;
mod conf;
mod error;
mod exec;
mod result;

pub use error::CniError;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::RwLock;

use self::cache::{Cache, Entry};
use self::conf::{Loaded, NetworkList, Version};
use self::exec::Executor;
use super::{
    Attachment, CniConfig, InterfaceReader, NetworkError, NetworkRecord, NotReady, PodNetwork, PodNetworkRequest,
    Provider, namespace,
};

/// How old an answer to STATUS may be before plugins are asked again. Kubelets ask every five seconds.
const STATUS_AGE: Duration = Duration::from_secs(2);
/// How many pods of a former life are detached side by side.
const SWEEP_WIDTH: usize = 8;

/// A CNI client with its configuration and its memory. Clones share both.
#[derive(Clone, Debug)]
pub(super) struct Cni(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: CniConfig,
    executor: Executor,
    cache: Cache,
    /// Where namespaces are pinned, for plugins to find them by path.
    pins: PathBuf,
    conf: Mutex<Conf>,
    /// By network: attaching and detaching share it, garbage collection has it alone.
    locks: Mutex<HashMap<String, Arc<RwLock<()>>>>,
}

/// What is known of the configuration directory.
#[derive(Debug, Default)]
struct Conf {
    fingerprint: Option<u64>,
    loaded: Arc<Loaded>,
    /// Negotiated versions by network.
    versions: HashMap<String, Version>,
    verdict: Option<Verdict>,
    asking: bool,
}

/// An attachment, its network as it was, and the version that was spoken.
type Remembered = (Entry, NetworkList, Version);

/// What the plugins answered to STATUS.
#[derive(Clone, Debug)]
struct Verdict {
    at: Instant,
    result: Result<(), String>,
}

impl Cni {
    pub fn open(config: &CniConfig, root: &Path, state: &Path) -> Self {
        let executor = Executor {
            dirs: config.bin_dirs.clone(),
            timeout: Duration::from_secs(config.plugin_timeout_seconds.max(1)),
            env: config.env.clone(),
        };
        Self(Arc::new(Inner {
            config: config.clone(),
            executor,
            cache: Cache::new(root),
            pins: state.join("netns"),
            conf: Mutex::default(),
            locks: Mutex::default(),
        }))
    }

    /// Whether a configuration is there, its plugins are installed, and those that can be asked say yes.
    pub fn status(&self) -> Result<(), NotReady> {
        let loaded = self.0.current();
        if loaded.networks.is_empty() {
            return Err(NotReady::plugin(self.0.nothing_loaded(&loaded)));
        }
        let mut asks = false;
        for network in &loaded.networks {
            for plugin in &network.plugins {
                for program in std::iter::once(plugin.kind.as_str()).chain(plugin.ipam()) {
                    let found = self.0.executor.find(program, &network.name);
                    found.map_err(|error| NotReady::plugin(error.to_string()))?;
                }
            }
            asks |= network.newest() >= Version::V1_1_0;
        }
        if asks { self.verdict(&loaded) } else { Ok(()) }
    }

    /// The last answer to STATUS; an old one has the plugins asked again in the background.
    fn verdict(&self, loaded: &Arc<Loaded>) -> Result<(), NotReady> {
        let mut conf = self.0.conf();
        let verdict = conf.verdict.clone();
        let fresh = verdict.as_ref().is_some_and(|verdict| verdict.at.elapsed() < STATUS_AGE);
        if !fresh
            && !conf.asking
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            conf.asking = true;
            let (this, loaded) = (self.clone(), Arc::clone(loaded));
            runtime.spawn(async move { this.ask(&loaded).await });
        }
        drop(conf);
        let answer = verdict.map(|verdict| verdict.result);
        answer
            .unwrap_or_else(|| Err("the CNI plugins are being asked for their status".to_owned()))
            .map_err(NotReady::plugin)
    }

    /// Asks the plugins of these networks for their status and keeps the answer.
    async fn ask(&self, loaded: &Arc<Loaded>) {
        let mut result = Ok(());
        for network in &loaded.networks {
            let asked = match self.0.version(network).await {
                Ok(version) => self.0.executor.status(network, version).await,
                Err(error) => Err(error),
            };
            if let Err(error) = asked {
                result = Err(error.to_string());
                break;
            }
        }
        let mut conf = self.0.conf();
        conf.asking = false;
        // The directory may have changed meanwhile; then this is the answer to another question.
        if Arc::ptr_eq(&conf.loaded, loaded) {
            conf.verdict = Some(Verdict { at: Instant::now(), result });
        }
    }

    /// Reads the configuration and asks the plugins, so that the first status is a true one.
    pub async fn warm_up(&self) {
        let loaded = self.0.current();
        if loaded.networks.iter().any(|network| network.newest() >= Version::V1_1_0) {
            self.ask(&loaded).await;
        }
    }

    pub async fn setup(&self, request: &mut PodNetworkRequest) -> Result<PodNetwork, NetworkError> {
        check_id(&request.id)?;
        let loaded = self.0.current();
        if loaded.networks.is_empty() {
            return Err(NetworkError::NotReady(NotReady::plugin(self.0.nothing_loaded(&loaded))));
        }
        let template = Entry {
            network: String::new(),
            container_id: request.id.clone(),
            if_name: String::new(),
            netns: self.0.pins.join(&request.id),
            cni_args: arguments::cni_args(request)?,
            capability_args: arguments::capabilities(request)?,
            config: Value::Null,
            result: None,
        };
        std::fs::create_dir_all(&self.0.pins).map_err(NetworkError::file(&self.0.pins))?;
        // What an earlier attempt with this id may have left.
        namespace::unpin(&template.netns)?;
        let netns = namespace::prepare(request.netns.take(), Some(&template.netns))?;
        let counters = match InterfaceReader::open(netns.as_fd()) {
            Ok(counters) => counters,
            Err(error) => {
                self.undo(&request.id, &[], &template.netns).await;
                return Err(error);
            }
        };
        let mut attachments = Vec::new();
        match self.attach_all(&loaded.networks, &template, &mut attachments).await {
            Ok(ips) => {
                let provider = Provider::Cni { attachments };
                let record = NetworkRecord { ips, netns_path: Some(template.netns), provider };
                Ok(PodNetwork { netns, record, counters })
            }
            Err(error) => {
                self.undo(&request.id, &attachments, &template.netns).await;
                Err(error)
            }
        }
    }

    /// Attaches a pod to every network. The attempted attachments are listed whether they succeed or not.
    async fn attach_all(
        &self,
        networks: &[NetworkList],
        template: &Entry,
        attachments: &mut Vec<Attachment>,
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let mut ips = Vec::new();
        for (number, network) in networks.iter().enumerate() {
            let lock = self.0.lock(&network.name);
            let _shared = lock.read().await;
            let version = self.0.version(network).await?;
            let interface = format!("eth{number}");
            let mut entry = Entry {
                network: network.name.clone(),
                if_name: interface.clone(),
                config: network.to_value(version),
                ..template.clone()
            };
            // First the memory, then the deed: a DEL is due even for an ADD that was cut off.
            self.0.cache.write(&entry)?;
            attachments.push(Attachment { network: network.name.clone(), interface: interface.clone() });
            let result = self.0.executor.add(network, version, &entry).await?;
            let addresses = result::addresses(&result, &interface).map_err(|reason| CniError::Output {
                plugin: network.plugins.last().map(|plugin| plugin.kind.clone()).unwrap_or_default(),
                verb: "ADD",
                reason,
            })?;
            entry.result = Some(result);
            self.0.cache.write(&entry)?;
            if number == 0 {
                if addresses.is_empty() {
                    return Err(CniError::NoAddress { network: network.name.clone(), interface }.into());
                }
                ips = result::prefer(addresses, self.0.config.ip_pref);
            }
        }
        Ok(ips)
    }

    /// After a failed setup. What cannot be undone now is tried again at the next start.
    async fn undo(&self, id: &str, attachments: &[Attachment], pin: &Path) {
        for attachment in attachments.iter().rev() {
            if let Err(error) = self.detach(id, attachment, pin).await {
                tracing::warn!(pod = id, network = attachment.network, %error, "a failed attachment is not undone");
            }
        }
        if let Err(error) = namespace::unpin(pin) {
            tracing::warn!(pod = id, %error, "a network namespace stays pinned");
        }
    }

    /// Detaches a pod from all its networks, the last one first, then lets its namespace go. What failed can be tried
    /// again.
    pub async fn teardown(&self, id: &str, record: &NetworkRecord) -> Result<(), NetworkError> {
        check_id(id)?;
        let pin = record.netns_path.clone().unwrap_or_else(|| self.0.pins.join(id));
        if let Provider::Cni { attachments } = &record.provider {
            for attachment in attachments.iter().rev() {
                self.detach(id, attachment, &pin).await?;
            }
        }
        namespace::unpin(&pin)
    }

    /// Lets a pod's namespace go though its plugins could not undo their part; they are asked again at the next start.
    pub fn abandon(&self, id: &str, record: &NetworkRecord) -> Result<(), NetworkError> {
        check_id(id)?;
        namespace::unpin(&record.netns_path.clone().unwrap_or_else(|| self.0.pins.join(id)))
    }

    /// DEL of one attachment. One that is not remembered was detached before, or never was.
    async fn detach(&self, id: &str, attachment: &Attachment, pin: &Path) -> Result<(), CniError> {
        let lock = self.0.lock(&attachment.network);
        let _shared = lock.read().await;
        let Some((entry, list, version)) = self.remembered(id, attachment)? else { return Ok(()) };
        let netns = if namespace::is_pin(pin) { pin } else { Path::new("") };
        self.0.executor.del(&list, version, &entry, netns).await?;
        self.0.cache.remove(id, &attachment.interface)
    }

    /// What is remembered of an attachment. Where that is unreadable, today's configuration has to do: plugins undo
    /// what they can without a previous result.
    fn remembered(&self, id: &str, attachment: &Attachment) -> Result<Option<Remembered>, CniError> {
        let read = self.0.cache.read(id, &attachment.interface).and_then(|entry| {
            let Some(entry) = entry else { return Ok(None) };
            let (list, version) = entry.list(&self.0.cache.path(id, &attachment.interface))?;
            Ok(Some((entry, list, version)))
        });
        let error = match read {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let loaded = self.0.current();
        let Some(list) = loaded.networks.iter().find(|network| network.name == attachment.network) else {
            return Err(error);
        };
        tracing::warn!(pod = id, %error, "detaching with the current configuration instead");
        let entry = Entry {
            network: list.name.clone(),
            container_id: id.to_owned(),
            if_name: attachment.interface.clone(),
            netns: self.0.pins.join(id),
            cni_args: "IgnoreUnknown=1".to_owned(),
            capability_args: BTreeMap::new(),
            config: Value::Null,
            result: None,
        };
        Ok(Some((entry, list.clone(), list.newest())))
    }

    /// CHECK of every attachment of a pod.
    pub async fn check(&self, id: &str, record: &NetworkRecord) -> Result<(), NetworkError> {
        check_id(id)?;
        let Provider::Cni { attachments } = &record.provider else { return Ok(()) };
        for attachment in attachments {
            let lock = self.0.lock(&attachment.network);
            let _shared = lock.read().await;
            if let Some((entry, list, version)) = self.remembered(id, attachment)? {
                self.0.executor.check(&list, version, &entry).await?;
            }
        }
        Ok(())
    }

    /// Detaches what no pod claims, then has the plugins collect garbage: in the background, for there may be many.
    pub fn recover(&self, live: &[(String, NetworkRecord)]) {
        let live: HashSet<String> = live.iter().map(|(id, _)| id.clone()).collect();
        let stale: Vec<(String, String)> =
            self.0.cache.list().into_iter().filter(|(id, _)| !live.contains(id)).collect();
        let pins: Vec<PathBuf> = std::fs::read_dir(&self.0.pins)
            .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
            .unwrap_or_default();
        let unclaimed =
            |pin: &PathBuf| pin.file_name().and_then(|name| name.to_str()).is_some_and(|id| !live.contains(id));
        let pins: Vec<PathBuf> = pins.into_iter().filter(unclaimed).collect();
        let this = self.clone();
        tokio::spawn(async move { this.sweep(stale, pins).await });
    }

    async fn sweep(&self, stale: Vec<(String, String)>, pins: Vec<PathBuf>) {
        let detach = |(id, interface): &(String, String)| {
            let (id, interface) = (id.clone(), interface.clone());
            async move {
                if let Err(error) = self.detach_stale(&id, &interface).await {
                    tracing::warn!(pod = id, interface, %error, "a pod of a former life cannot be detached");
                }
            }
        };
        futures_util::stream::iter(&stale).for_each_concurrent(SWEEP_WIDTH, detach).await;
        for pin in pins {
            if let Err(error) = namespace::unpin(&pin) {
                tracing::warn!(%error, "a network namespace of a former life stays pinned");
            }
        }
        for network in &self.0.current().networks {
            if let Err(error) = self.collect(network, &stale).await {
                tracing::warn!(network = network.name, %error, "a CNI plugin cannot collect garbage");
            }
        }
    }

    async fn detach_stale(&self, id: &str, interface: &str) -> Result<(), CniError> {
        match self.0.cache.read(id, interface) {
            Ok(Some(entry)) => {
                let attachment = Attachment { network: entry.network, interface: interface.to_owned() };
                self.detach(id, &attachment, &self.0.pins.join(id)).await
            }
            Ok(None) => Ok(()),
            Err(error) => {
                // Nothing can be made of it, now or later; GC has the plugins forget the pod.
                tracing::warn!(pod = id, %error, "forgotten");
                self.0.cache.remove(id, interface)
            }
        }
    }

    /// GC with all attachments that are remembered as the valid ones, but those of pods that are gone.
    async fn collect(&self, network: &NetworkList, stale: &[(String, String)]) -> Result<(), CniError> {
        let version = self.0.version(network).await?;
        let lock = self.0.lock(&network.name);
        let _alone = lock.write().await;
        let valid: Vec<_> = self.0.cache.list().into_iter().filter(|attachment| !stale.contains(attachment)).collect();
        self.0.executor.gc(network, version, &valid).await
    }
}

impl Inner {
    fn conf(&self) -> MutexGuard<'_, Conf> {
        self.conf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the directory says now.
    fn current(&self) -> Arc<Loaded> {
        let mut conf = self.conf();
        let fingerprint = conf::fingerprint(&self.config.conf_dir, &conf.loaded.networks);
        if conf.fingerprint != Some(fingerprint) {
            let loaded = conf::load(&self.config.conf_dir, self.config.max_conf_num);
            let names: Vec<&str> = loaded.networks.iter().map(|network| network.name.as_str()).collect();
            tracing::info!(dir = %self.config.conf_dir.display(), networks = names.join(" "), "CNI configuration read");
            for error in &loaded.errors {
                tracing::warn!("{error}");
            }
            // Of the networks just read, whose folders count too.
            let fingerprint = if conf.loaded.networks == loaded.networks {
                fingerprint
            } else {
                conf::fingerprint(&self.config.conf_dir, &loaded.networks)
            };
            let asking = conf.asking;
            *conf = Conf { fingerprint: Some(fingerprint), loaded: Arc::new(loaded), asking, ..Conf::default() };
        }
        Arc::clone(&conf.loaded)
    }

    fn nothing_loaded(&self, loaded: &Loaded) -> String {
        let dir = self.config.conf_dir.display();
        match loaded.errors.as_slice() {
            [] => format!("no CNI configuration in {dir}"),
            errors => format!("no valid CNI configuration in {dir}: {}", errors.join("; ")),
        }
    }

    /// The version to speak with a network's plugins.
    async fn version(&self, network: &NetworkList) -> Result<Version, CniError> {
        if let [version] = network.versions.as_slice() {
            return Ok(*version);
        }
        if let Some(version) = self.conf().versions.get(&network.name) {
            return Ok(*version);
        }
        let version = self.executor.negotiate(network).await?;
        let mut conf = self.conf();
        if conf.loaded.networks.contains(network) {
            conf.versions.insert(network.name.clone(), version);
        }
        Ok(version)
    }

    fn lock(&self, network: &str) -> Arc<RwLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(network.to_owned()).or_default())
    }
}

/// Ids become file names and CNI_CONTAINERID.
fn check_id(id: &str) -> Result<(), NetworkError> {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if id.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && id.bytes().all(rest) {
        return Ok(());
    }
    Err(NetworkError::Config(format!("pod id {id:?} is not letters, digits, '_', '.' and '-'")))
}
