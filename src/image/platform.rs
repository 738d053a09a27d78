//! Which of an index's images this machine runs.
//!
//! The field is untidy: variants are missing or too exact, names differ (`x86_64`, `aarch64`). So names are normalised,
//! a missing variant matches, a variant that the CPU has beats a lower one, and among equals the first entry wins, as the
//! specification asks.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::null_default;

/// Operating system and CPU, as in an index's entry or an image's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    #[serde(deserialize_with = "null_default")]
    pub os: String,
    #[serde(deserialize_with = "null_default")]
    pub architecture: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    #[serde(rename = "os.version", deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    #[serde(rename = "os.features", deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self { os: os.into(), architecture: architecture.into(), variant: variant.into(), ..Self::default() }
            .normalised()
    }

    /// This machine's, with the highest variant that its CPU has.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self::new("linux", architecture, host_variant(architecture))
    }

    /// The same platform in the names that Go uses, which registries use too.
    pub fn normalised(mut self) -> Self {
        self.os.make_ascii_lowercase();
        self.architecture.make_ascii_lowercase();
        self.variant.make_ascii_lowercase();
        let (architecture, implied) = match self.architecture.as_str() {
            "x86_64" | "x86-64" => ("amd64", ""),
            "i386" | "i486" | "i586" | "i686" | "x86" => ("386", ""),
            "aarch64" => ("arm64", ""),
            "armhf" => ("arm", "v7"),
            "armel" => ("arm", "v6"),
            other => (other, ""),
        };
        let variant = match (architecture, self.variant.as_str()) {
            ("arm", "5") => "v5",
            ("arm", "6") => "v6",
            ("arm", "7") => "v7",
            ("arm" | "arm64", "8") | ("arm64", "v8.0") => "v8",
            (_, "") => implied,
            (_, other) => other,
        };
        (self.architecture, self.variant) = (architecture.to_owned(), variant.to_owned());
        self
    }

    /// How well an image for `offered` runs here: higher is better, `None` is not at all.
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        let offered = offered.clone().normalised();
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        if offered.variant == self.variant {
            return Some(1000);
        }
        let (have, want) = (level(&self.architecture, &self.variant), level(&self.architecture, &offered.variant));
        match (have, want) {
            // Nothing said on the other side: the architecture's common base.
            (_, None) if offered.variant.is_empty() => Some(2),
            (Some(have), Some(want)) if want <= have => Some(10 + want),
            (None, Some(_)) if self.variant.is_empty() => Some(1),
            _ => None,
        }
    }
}

/// The order of an architecture's variants: "v3" 30, "v8.2" 82. The base, where one is implied, is what is common.
fn level(architecture: &str, variant: &str) -> Option<u32> {
    let variant = match (architecture, variant) {
        ("amd64", "") => "v1",
        ("arm64", "") => "v8",
        (_, variant) => variant,
    };
    let digits = variant.strip_prefix("v").or_else(|| variant.strip_prefix("power"))?;
    let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    (major < 100 && minor < 10).then_some(major * 10 + minor)
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

fn host_variant(architecture: &str) -> &'static str {
    match architecture {
        "amd64" => amd64_level(),
        "arm64" => "v8",
        "arm" => arm_level(rustix::system::uname().machine().to_str().unwrap_or("")),
        _ => "",
    }
}

/// The x86-64 psABI's levels.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> &'static str {
    macro_rules! has {
        ($($feature:tt)+) => { true $(&& std::is_x86_feature_detected!($feature))+ };
    }
    let v2 = has!("sse3" "ssse3" "sse4.1" "sse4.2" "popcnt" "cmpxchg16b");
    let v3 = v2 && has!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe" "xsave");
    let v4 = v3 && has!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, _, _) => "v2",
        _ => "v1",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> &'static str {
    "v1"
}

/// The kernel's machine name is right where some ARMv6 boards' "CPU architecture" line says 7.
fn arm_level(machine: &str) -> &'static str {
    match machine {
        "armv5tel" | "armv5tejl" => "v5",
        "armv6l" => "v6",
        _ => "v7",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(host: &Platform, offers: &[(&str, &str)]) -> Option<usize> {
        let ranks = offers.iter().map(|(arch, variant)| {
            host.rank(&Platform {
                os: "linux".into(),
                architecture: (*arch).into(),
                variant: (*variant).into(),
                ..Platform::default()
            })
        });
        ranks
            .enumerate()
            .filter_map(|(at, rank)| Some((rank?, at)))
            .max_by_key(|(rank, at)| (*rank, usize::MAX - at))
            .map(|(_, at)| at)
    }

    #[test]
    fn takes_the_best_variant_and_then_the_first() {
        let v3 = Platform::new("linux", "amd64", "v3");
        assert_eq!(best(&v3, &[("amd64", ""), ("amd64", "v2"), ("amd64", "v3"), ("amd64", "v4")]), Some(2));
        assert_eq!(best(&v3, &[("amd64", "v4"), ("x86_64", "")]), Some(1));
        assert_eq!(best(&v3, &[("amd64", ""), ("amd64", "")]), Some(0));
        assert_eq!(best(&v3, &[("amd64", "v4"), ("arm64", "")]), None);
        let pi = Platform::new("linux", "arm", "v6");
        assert_eq!(best(&pi, &[("arm", "v7"), ("arm", "v5"), ("arm", "v6")]), Some(2));
        assert_eq!(best(&pi, &[("arm", "v7"), ("arm", "")]), Some(1));
        let arm64 = Platform::new("linux", "arm64", "v8");
        for offer in [("arm64", "v8"), ("arm64", ""), ("aarch64", "8")] {
            assert_eq!(best(&arm64, &[offer]), Some(0), "{offer:?}");
        }
        assert_eq!(best(&Platform::new("linux", "arm64", ""), &[("arm64", "v8")]), Some(0));
        assert_eq!(best(&arm64, &[("arm64", "v9")]), None);
        assert_eq!(best(&v3, &[("unknown", "")]), None);
        assert_eq!(best(&Platform::new("linux", "riscv64", ""), &[("riscv64", "")]), Some(0));
    }

    #[test]
    fn other_systems_do_not_match() {
        let windows = Platform { os: "windows".into(), architecture: "amd64".into(), ..Platform::default() };
        assert_eq!(Platform::new("linux", "amd64", "v3").rank(&windows), None);
    }

    #[test]
    fn knows_this_machine() {
        let host = Platform::host();
        assert_eq!(host.os, "linux");
        assert!(host.rank(&Platform::new("linux", &host.architecture, "")).is_some());
        assert_eq!(arm_level("armv6l"), "v6");
        assert_eq!(arm_level("armv7l"), "v7");
    }
}
