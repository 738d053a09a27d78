//! Documents of a registry.

use orlop::image::config::ImageConfig;
use orlop::image::manifest::Document;
use orlop::image::media;
use serde_json::{Value, json};

use super::bytes::Bytes;

pub fn check(input: &[u8]) {
    let _ = Document::parse(input, "");
    let mut bytes = Bytes(input);
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let kinds = [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.config.v1+json",
        "",
    ];
    let entry = |bytes: &mut Bytes<'_>| {
        json!({ "mediaType": *bytes.pick(&kinds), "digest": if bytes.below(6) == 5 { "sha256:x" } else { digest },
            "size": *bytes.pick(&[0i64, 1, 512, -1, i64::MAX]) })
    };
    let mut document = json!({ "schemaVersion": *bytes.pick(&[2, 1, 0]), "mediaType": *bytes.pick(&kinds) });
    let fields = ["config", "layers", "manifests"];
    let chosen: Vec<&str> = fields.into_iter().filter(|_| bytes.flip()).collect();
    for field in &chosen {
        document[*field] = match *field {
            "config" => entry(&mut bytes),
            _ => Value::Array((0..bytes.below(4)).map(|_| entry(&mut bytes)).collect()),
        };
    }
    let kind = *bytes.pick(&kinds);
    if Document::parse(document.to_string().as_bytes(), kind).is_ok() {
        // A manifest or an index, never both; and what it says it is.
        assert!(!(chosen.contains(&"manifests") && chosen.contains(&"layers")), "{document}");
        let said = document["mediaType"].as_str().unwrap();
        let specific = |kind: &str| media::is_index(kind) || media::is_manifest(kind);
        assert!(said.is_empty() || !specific(kind) || said == kind, "{document} as {kind}");
    }
    let _ = ImageConfig::parse(input, bytes.below(3));
}
