//! Names and paths: whatever is taken is harmless where it is used.

use orlop::image::reference::Reference;
use orlop::image::users::{UserDb, UserSpec};
use orlop::runtime::cgroup::CgroupPath;

pub fn check(bytes: &[u8]) {
    // Databases of users of an image, which may be anything.
    let half = bytes.len() / 2;
    let users = UserDb::parse(&bytes[..half], &bytes[half..]);
    let text = String::from_utf8_lossy(bytes);
    if let Ok(spec) = UserSpec::parse(&text)
        && let Ok(found) = users.resolve(&spec)
    {
        assert!(found.home.starts_with('/'), "{:?}", found.home);
        // Nobody becomes root but by that number, or by a name that has it.
        let digits = text.split(':').next().unwrap_or_default().trim_start_matches('0');
        let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        assert!(!number || found.uid.to_string() == digits, "{text:?} is {}", found.uid);
    }
    if let Ok(path) = CgroupPath::new(&text) {
        let path = path.as_str();
        assert!(path.split('/').all(|part| !matches!(part, ".." | ".")) && !path.contains(['\0', '\n']), "{path:?}");
    }
    if let Ok(reference) = text.parse::<Reference>() {
        let again = reference.to_string();
        let back: Reference = again.parse().unwrap_or_else(|error| panic!("{text:?} is {again:?}: {error}"));
        assert_eq!(back, reference, "{text:?} is {again:?}");
    }
}
