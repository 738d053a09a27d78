//! HOME from the container's /etc/passwd.

use rustix::fs::{FileType, OFlags, fstat};

use super::tree::Tree;

/// As much of the file as is read: it belongs to the image, and may be anything.
const MOST: usize = 1 << 20;

/// The home directory of a user, or "/".
pub(super) fn home_of(tree: &Tree, uid: u32) -> Vec<u8> {
    read(tree).and_then(|bytes| find(&bytes, uid)).unwrap_or_else(|| b"/".to_vec())
}

fn read(tree: &Tree) -> Option<Vec<u8>> {
    let file = tree.open(b"/etc/passwd", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
    let stat = fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = vec![0; (stat.st_size as usize).min(MOST)];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::io::read(&file, &mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(_) => return None,
        }
    }
    bytes.truncate(filled);
    Some(bytes)
}

/// `name:password:uid:gid:comment:home:shell`.
fn find(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    passwd.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let id: u32 = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
        let home = fields.nth(2)?;
        (id == uid && home.starts_with(b"/") && !home.contains(&0)).then(|| home.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn home_is_the_sixth_field_of_the_first_line_with_the_uid() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbroken\nx:x:nan:0::/:/\nu:x:7:7::/home/u:/bin/sh\nv:x:7:7::/v:\n";
        assert_eq!(find(passwd, 0).as_deref(), Some(&b"/root"[..]));
        assert_eq!(find(passwd, 7).as_deref(), Some(&b"/home/u"[..]));
        assert_eq!(find(passwd, 8), None);
        assert_eq!(find(b"u:x:7:7::relative:/bin/sh", 7), None);
        assert_eq!(find(b"u:x:7:7:", 7), None);
    }
}
