//! What a pod tells plugins: CNI_ARGS, and the capability arguments that plugins may ask for (CNI conventions).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::CniError;
use crate::network::PodNetworkRequest;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Rates that traffic control can express: 1 kbit/s to 1 Pbit/s.
const RATES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// How much may be sent at once, in bits: as much as the plugins take, since Kubernetes has no say about it.
const BURST: u64 = u32::MAX as u64;

/// CNI_ARGS. `IgnoreUnknown` has plugins pass over what they do not know.
pub(super) fn cni_args(request: &PodNetworkRequest) -> Result<String, CniError> {
    let values = [
        ("K8S_POD_NAMESPACE", &request.namespace),
        ("K8S_POD_NAME", &request.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &request.id),
        ("K8S_POD_UID", &request.uid),
    ];
    let mut text = "IgnoreUnknown=1".to_owned();
    for (name, value) in values {
        if value.contains([';', '\0']) {
            return Err(CniError::Argument { name, value: value.clone() });
        }
        text.push_str(&format!(";{name}={value}"));
    }
    Ok(text)
}

/// The capability arguments of a pod, by the capability that asks for them.
pub(super) fn capabilities(request: &PodNetworkRequest) -> Result<BTreeMap<String, Value>, CniError> {
    let mut arguments = BTreeMap::new();
    let ports: Vec<Value> = request
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| {
            json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol.name(),
                "hostIP": mapping.host_ip,
            })
        })
        .collect();
    if !ports.is_empty() {
        arguments.insert("portMappings".to_owned(), Value::Array(ports));
    }
    if let Some(bandwidth) = bandwidth(&request.annotations)? {
        arguments.insert("bandwidth".to_owned(), bandwidth);
    }
    if let Some(dns) = &request.dns {
        let dns = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        arguments.insert("dns".to_owned(), dns);
    }
    if !request.cgroup_parent.is_empty() {
        arguments.insert("cgroupPath".to_owned(), request.cgroup_parent.clone().into());
    }
    arguments.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(request.annotations));
    Ok(arguments)
}

/// Rates in bits per second.
fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, CniError> {
    let mut bandwidth = serde_json::Map::new();
    for (name, rate, burst) in [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")] {
        let Some(value) = annotations.get(name) else { continue };
        let fail = |reason| CniError::Annotation { name: name.to_owned(), value: value.clone(), reason };
        let bits = quantity(value).ok_or_else(|| fail("is not a quantity such as 10M"))?;
        if !RATES.contains(&bits) {
            return Err(fail("is not between 1k and 1P bits per second"));
        }
        bandwidth.insert(rate.to_owned(), bits.into());
        bandwidth.insert(burst.to_owned(), BURST.into());
    }
    Ok(if bandwidth.is_empty() { None } else { Some(Value::Object(bandwidth)) })
}

/// A Kubernetes quantity, rounded up to a whole number: `10M`, `1.5Gi`, `1e6`.
fn quantity(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits =
        text.find(|letter: char| !(letter.is_ascii_digit() || matches!(letter, '.' | '+'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        exponent => 10.0_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let value = number.parse::<f64>().ok()? * factor;
    (value.is_finite() && value >= 0.0 && value < u64::MAX as f64).then(|| value.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let cases =
            [("10M", Some(10_000_000)), ("1Gi", Some(1 << 30)), ("1.5k", Some(1_500)), ("1e6", Some(1_000_000))];
        for (text, bits) in cases {
            assert_eq!(quantity(text), bits, "{text}");
        }
        for text in ["", "M", "ten", "10X", "-1M", "1e", "1e999", "1 M"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    #[test]
    fn a_rate_out_of_range_is_refused() {
        for value in ["1", "999", "2P", "x"] {
            let annotations = BTreeMap::from([(INGRESS.to_owned(), value.to_owned())]);
            let error = bandwidth(&annotations).unwrap_err().to_string();
            assert!(error.contains(INGRESS) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn nothing_breaks_out_of_the_arguments() {
        let request = PodNetworkRequest { name: "a;K8S_POD_NAMESPACE=kube-system".to_owned(), ..Default::default() };
        assert!(cni_args(&request).is_err());
    }
}
