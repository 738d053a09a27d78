//! Images: what a request names, the credentials of a pull, and what a reply says.

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::cri::v1;
use crate::cri::validate::{
    ANNOTATIONS_LIMIT, At, CREDENTIAL_LIMIT, Checked, Invalid, NAME_LIMIT, REFERENCE_LIMIT, pairs, text, word,
};
use crate::node::types::ImageSpec;
use crate::node::views::{FsUsage, ImageView, PullAuth};

/// An image that must be named.
pub fn spec(s: v1::ImageSpec) -> Checked<ImageSpec> {
    word(&s.image, REFERENCE_LIMIT).at("image")?;
    open_spec(s)
}

/// An image that a filter may leave open.
fn open_spec(s: v1::ImageSpec) -> Checked<ImageSpec> {
    for (field, value) in [("user_specified_image", &s.user_specified_image), ("image_ref", &s.image_ref)] {
        if !value.is_empty() {
            word(value, REFERENCE_LIMIT).at(field)?;
        }
    }
    text(&s.runtime_handler, NAME_LIMIT).at("runtime_handler")?;
    pairs(&s.annotations, ANNOTATIONS_LIMIT).at("annotations")?;
    Ok(ImageSpec {
        image: s.image,
        annotations: s.annotations,
        user_specified_image: s.user_specified_image,
        runtime_handler: s.runtime_handler,
        image_ref: s.image_ref,
    })
}

/// The one image that a list is about; `None` for all.
pub fn filter(filter: Option<v1::ImageFilter>) -> Checked<Option<ImageSpec>> {
    match filter.and_then(|f| f.image) {
        Some(image) if image.image.is_empty() => Ok(None),
        Some(image) => spec(image).at("image").at("filter").map(Some),
        None => Ok(None),
    }
}

/// An image's name as the domain keeps it, back on the wire.
pub fn spec_view(s: &ImageSpec) -> v1::ImageSpec {
    v1::ImageSpec {
        image: s.image.clone(),
        annotations: s.annotations.clone(),
        user_specified_image: s.user_specified_image.clone(),
        runtime_handler: s.runtime_handler.clone(),
        image_ref: s.image_ref.clone(),
    }
}

/// Credentials; a message with nothing in it is none.
pub fn auth(a: v1::AuthConfig) -> Checked<Option<PullAuth>> {
    let secrets = [
        ("username", &a.username),
        ("password", &a.password),
        ("auth", &a.auth),
        ("identity_token", &a.identity_token),
        ("registry_token", &a.registry_token),
    ];
    if secrets.iter().all(|(_, value)| value.is_empty()) {
        return Ok(None);
    }
    for (field, value) in secrets {
        text(value, CREDENTIAL_LIMIT).at(field)?;
    }
    text(&a.server_address, REFERENCE_LIMIT).at("server_address")?;
    basic(&a.auth).at("auth")?;
    Ok(Some(PullAuth {
        username: a.username,
        password: a.password,
        auth: a.auth,
        server_address: a.server_address,
        identity_token: a.identity_token,
        registry_token: a.registry_token,
    }))
}

/// base64 of `user:password`, in either alphabet, padded or not. The error never shows it.
fn basic(auth: &str) -> Checked {
    if auth.is_empty() {
        return Ok(());
    }
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decoded = [&STANDARD, &URL_SAFE].into_iter().find_map(|a| GeneralPurpose::new(a, config).decode(auth).ok());
    if decoded.is_some_and(|bytes| bytes.contains(&b':')) {
        return Ok(());
    }
    Err(Invalid::new("is not base64 of \"user:password\""))
}

/// One image of a reply.
pub fn image_view(i: ImageView) -> v1::Image {
    v1::Image {
        id: i.id,
        repo_tags: i.repo_tags,
        repo_digests: i.repo_digests,
        size: i.size,
        uid: i.uid.map(|value| v1::Int64Value { value }),
        username: i.username,
        spec: None,
        pinned: i.pinned,
    }
}

/// One filesystem of a reply.
pub fn fs_view(f: FsUsage) -> v1::FilesystemUsage {
    v1::FilesystemUsage {
        timestamp: f.timestamp,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: f.mountpoint }),
        used_bytes: Some(v1::UInt64Value { value: f.used_bytes }),
        inodes_used: Some(v1::UInt64Value { value: f.inodes_used }),
    }
}
