//! Which extended attributes of a layer are kept, and under which name.

use std::borrow::Cow;
use std::sync::OnceLock;

/// The name under which an attribute of a layer is stored; `None` if it is not.
///
/// Attributes of overlayfs itself would let a layer say "this directory is that one" or "the data of this file is there".
/// Where the kernel knows of escaping (6.7), they are stored so that the merged view shows them as the plain attributes that
/// the layer meant; else they are left out. Labels of SELinux, IMA and EVM belong to the machine that made the layer.
pub(super) fn stored_name(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    const OVERLAY: &[u8] = b"trusted.overlay.";
    if let Some(rest) = name.strip_prefix(OVERLAY) {
        return kernel_escapes().then(|| [OVERLAY, b"overlay.", rest].concat().into());
    }
    let kept = match name {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        _ => name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") || name.starts_with(b"trusted."),
    };
    kept.then_some(Cow::Borrowed(name))
}

fn kernel_escapes() -> bool {
    static ESCAPES: OnceLock<bool> = OnceLock::new();
    *ESCAPES.get_or_init(|| at_least(rustix::system::uname().release().to_str().unwrap_or(""), (6, 7)))
}

/// Compares `6.12.3-generic` with a version.
fn at_least(release: &str, version: (u32, u32)) -> bool {
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_attributes_never_reach_overlayfs() {
        for name in ["trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.metacopy"] {
            let stored = stored_name(name.as_bytes()).map(|name| String::from_utf8(name.into_owned()).unwrap());
            assert!(stored.is_none_or(|stored| stored.starts_with("trusted.overlay.overlay.")), "{name}");
        }
        for name in ["user.overlay.opaque", "security.selinux", "security.ima", "security.evm", "other.x"] {
            assert_eq!(stored_name(name.as_bytes()), None, "{name}");
        }
        for name in ["user.x", "security.capability", "trusted.x"] {
            assert_eq!(stored_name(name.as_bytes()).as_deref(), Some(name.as_bytes()));
        }
    }

    #[test]
    fn compares_kernel_releases() {
        assert!(at_least("6.7.0", (6, 7)) && at_least("6.18.44-fc", (6, 7)) && at_least("7.0", (6, 7)));
        assert!(!at_least("6.1.0-40-cloud", (6, 7)) && !at_least("5.15", (6, 7)) && !at_least("", (6, 7)));
    }
}
