//! How long a pull takes from the first byte to an image that can be run, and what one core's inflating of it takes.
//!
//! The layers are made from files of this machine (`/usr`), the source is memory, the store is on the disk that `--dir` names.
//!
//! ```text
//! cargo bench --bench pull -- [--mb 962] [--layers 6] [--format gzip|zstd|plain] [--dir DIR] [--runs 3] [--parallel N]
//! ```

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use orlop::image::digest::Digest;
use orlop::image::manifest::Descriptor;
use orlop::image::platform::Platform;
use orlop::image::pull::{BlobStream, Fetched, Progress, Puller, Source, SourceError};
use orlop::image::store::Store;
use orlop::image::unpack::Limits;

/// What a network read gives at most.
const CHUNK: usize = 64 << 10;

struct Options {
    bytes: u64,
    layers: usize,
    format: String,
    dir: PathBuf,
    runs: usize,
    parallel: usize,
}

struct Layer {
    diff_id: Digest,
    digest: Digest,
    blob: Bytes,
    size: u64,
}

struct Memory {
    manifest: Bytes,
    config: (Digest, Bytes),
    layers: Vec<Layer>,
}

impl Source for Memory {
    fn manifest<'a>(&'a self, _target: &'a str, _accept: &'a [&'a str]) -> BoxFuture<'a, Result<Fetched, SourceError>> {
        let digest = Digest::sha256(&self.manifest);
        let fetched = Fetched { media_type: String::new(), digest, bytes: self.manifest.clone() };
        Box::pin(async move { Ok(fetched) })
    }

    fn blob<'a>(&'a self, descriptor: &'a Descriptor) -> BoxFuture<'a, Result<BlobStream, SourceError>> {
        Box::pin(async move {
            let layers = self.layers.iter().map(|layer| (&layer.digest, &layer.blob));
            let mut all = layers.chain([(&self.config.0, &self.config.1)]);
            let (_, blob) = all.find(|(digest, _)| **digest == descriptor.digest).ok_or("unknown blob")?;
            let blob = blob.clone();
            let chunks = (0..blob.len()).step_by(CHUNK).map(move |at| Ok(blob.slice(at..(at + CHUNK).min(blob.len()))));
            Ok(futures_util::stream::iter(chunks).boxed())
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let memory = Arc::new(image(&options)?);
    let compressed: usize = memory.layers.iter().map(|layer| layer.blob.len()).sum();
    let size: u64 = memory.layers.iter().map(|layer| layer.size).sum();
    let mb = |bytes: f64| bytes / 1e6;
    println!(
        "{} layers, {}: {:.0} MB, unpacked {:.0} MB",
        memory.layers.len(),
        options.format,
        mb(compressed as f64),
        mb(size as f64)
    );
    let before = cpu();
    let inflate = inflate_time(&memory, &options.format)?;
    let rate = |time: Duration| mb(size as f64) / time.as_secs_f64();
    println!(
        "inflate on one core: {:.2} s ({:.0} MB/s), {}",
        inflate.as_secs_f64(),
        rate(inflate),
        cpu().since(&before)
    );
    // Each run has a directory of its own, and all are deleted at the end: some file systems are slow to give inodes again
    // that were freed a moment ago.
    let dir = options.dir.join(format!("orlop-bench-{}", std::process::id()));
    for run in 0..options.runs {
        let root = dir.join(run.to_string());
        fs::create_dir_all(&root)?;
        let (time, cpu) = pull(&memory, &root, options.parallel)?;
        println!(
            "pull: {:.2} s ({:.0} MB/s, {:.2} x one core's inflate), {cpu}",
            time.as_secs_f64(),
            rate(time),
            time.as_secs_f64() / inflate.as_secs_f64().max(1e-9),
        );
    }
    fs::remove_dir_all(&dir)?;
    Ok(())
}

fn options() -> Result<Options, Box<dyn Error>> {
    let parallel = std::thread::available_parallelism().map_or(2, usize::from) + 1;
    let dir = std::env::temp_dir();
    let mut options = Options { bytes: 962_000_000, layers: 6, format: "gzip".into(), dir, runs: 3, parallel };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--mb" => options.bytes = value.parse::<u64>()? * 1_000_000,
            "--layers" => options.layers = value.parse()?,
            "--format" => options.format = value,
            "--dir" => options.dir = value.into(),
            "--runs" => options.runs = value.parse()?,
            "--parallel" => options.parallel = value.parse()?,
            _ => return Err(format!("unknown option {arg}").into()),
        }
    }
    Ok(options)
}

/// Layers of falling size, as images have them: the first is about half of the whole.
fn image(options: &Options) -> Result<Memory, Box<dyn Error>> {
    let mut files = Vec::new();
    collect(Path::new("/usr"), &mut files);
    let mut files = files.into_iter();
    let mut layers = Vec::new();
    let mut left = options.bytes;
    for number in 0..options.layers {
        let want = if number + 1 == options.layers { left } else { left / 2 };
        left -= want;
        let tar = tar(&mut files, want)?;
        let blob = match options.format.as_str() {
            "gzip" => gzip(&tar)?,
            "zstd" => zstd::encode_all(tar.as_slice(), 3)?,
            "plain" => tar.clone(),
            other => return Err(format!("unknown format {other}").into()),
        };
        layers.push(Layer {
            diff_id: Digest::sha256(&tar),
            digest: Digest::sha256(&blob),
            blob: blob.into(),
            size: tar.len() as u64,
        });
    }
    let platform = Platform::host();
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", layer.diff_id)).collect();
    let config = format!(
        r#"{{"os":"linux","architecture":"{}","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        platform.architecture,
        diff_ids.join(",")
    );
    let entry = |kind: &str, digest: &Digest, size: usize| {
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
    };
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    let entries: Vec<String> = layers.iter().map(|layer| entry(media_type, &layer.digest, layer.blob.len())).collect();
    let id = Digest::sha256(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        entry("application/vnd.oci.image.config.v1+json", &id, config.len()),
        entries.join(",")
    );
    Ok(Memory { manifest: manifest.into(), config: (id, config.into()), layers })
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

/// A tar of files until it has about so many bytes.
fn tar(files: &mut impl Iterator<Item = PathBuf>, bytes: u64) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut tar = Vec::new();
    while (tar.len() as u64) < bytes {
        let Some(path) = files.next() else { break };
        let Ok(data) = fs::read(&path) else { continue };
        let name = path.to_str().unwrap_or("").trim_start_matches('/').to_owned();
        if name.is_empty() {
            continue;
        }
        if name.len() > 100 {
            append(&mut tar, "long", b'L', name.as_bytes(), 0);
        }
        let mode = fs::metadata(&path).map_or(0o644, |meta| meta.mode() & 0o777);
        append(&mut tar, &name, b'0', &data, mode);
    }
    tar.resize(tar.len() + 1024, 0);
    Ok(tar)
}

fn append(tar: &mut Vec<u8>, name: &str, flag: u8, data: &[u8], mode: u32) {
    let mut head = [0_u8; 512];
    let name = &name.as_bytes()[..name.len().min(100)];
    head[..name.len()].copy_from_slice(name);
    let size = format!("{:011o}\0", data.len());
    let fields =
        [(100, format!("{mode:07o}\0")), (124, size), (136, "07346545000\0".into()), (257, "ustar  \0".into())];
    for (at, text) in fields {
        head[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    head[156] = flag;
    head[148..156].fill(b' ');
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend_from_slice(&head);
    tar.extend_from_slice(data);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn gzip(data: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(data)?;
    Ok(writer.finish()?)
}

/// Inflating alone, into a buffer that is thrown away.
fn inflate_time(memory: &Memory, format: &str) -> Result<Duration, Box<dyn Error>> {
    let mut buffer = vec![0; 256 << 10];
    let started = Instant::now();
    for layer in &memory.layers {
        let mut reader: Box<dyn Read> = match format {
            "gzip" => Box::new(flate2::bufread::MultiGzDecoder::new(&layer.blob[..])),
            "zstd" => Box::new(zstd::Decoder::new(&layer.blob[..])?),
            _ => continue,
        };
        while reader.read(&mut buffer)? > 0 {}
    }
    Ok(started.elapsed())
}

fn pull(memory: &Arc<Memory>, root: &Path, parallel: usize) -> Result<(Duration, Cpu), Box<dyn Error>> {
    let store = Store::open(root)?;
    let puller = Puller::new(store, Limits::default(), parallel);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let reference = "bench.example/image:1".parse()?;
    // What is dirty from before is not this pull's.
    rustix::fs::syncfs(fs::File::open(root)?)?;
    let before = cpu();
    let started = Instant::now();
    runtime.block_on(puller.pull(memory.clone(), &reference, &Platform::host(), &Progress::default()))?;
    Ok((started.elapsed(), cpu().since(&before)))
}

/// What this process used.
struct Cpu {
    user: Duration,
    system: Duration,
}

impl Cpu {
    fn since(self, earlier: &Self) -> Self {
        Self { user: self.user - earlier.user, system: self.system - earlier.system }
    }
}

impl std::fmt::Display for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CPU {:.2} s user, {:.2} s system", self.user.as_secs_f64(), self.system.as_secs_f64())
    }
}

/// From `/proc/self/stat`, in ticks of 10 ms.
fn cpu() -> Cpu {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<u64> = after_name.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let duration = |at: usize| Duration::from_millis(ticks.get(at).copied().unwrap_or(0) * 10);
    Cpu { user: duration(11), system: duration(12) }
}
