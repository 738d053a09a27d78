use std::io::BufReader;

use proptest::prelude::*;

use super::*;
use crate::image::test_layers::Tar;

/// Path and data of each entry.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// What a reader made of a stream, or that it failed.
fn read(tar: &[u8], buffer: usize) -> Result<Entries, String> {
    let mut reader = TarReader::new(BufReader::with_capacity(buffer, tar));
    let mut found = Vec::new();
    while let Some(entry) = reader.next().map_err(|error| error.to_string())? {
        let mut data = Vec::new();
        loop {
            let chunk = reader.data().map_err(|error| error.to_string())?;
            let len = chunk.len();
            if len == 0 {
                break;
            }
            data.extend_from_slice(chunk);
            reader.advance(len);
        }
        found.push((entry.path, data));
    }
    Ok(found)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z]{1,20}(/[a-z.]{1,20}){0,3}", 1 => "[a-z]{120,300}"]
}

proptest! {
    /// The same entries come out, however the stream is cut into buffers.
    #[test]
    fn reads_what_was_written(files in prop::collection::vec((name(), prop::collection::vec(any::<u8>(), 0..2000)), 0..8),
                              buffer in 1_usize..3000) {
        let mut tar = Tar::new();
        for (name, data) in &files {
            if name.len() > 100 {
                tar = tar.pax(&[("path", name.as_bytes())]);
            }
            tar = tar.file(name, data);
        }
        let expected: Vec<_> = files.into_iter().map(|(name, data)| (name.into_bytes(), data)).collect();
        prop_assert_eq!(read(&tar.end(), buffer), Ok(expected));
    }

    /// Damaged streams end in an error or in entries, never in a panic, and the same way for every size of buffers.
    #[test]
    fn survives_damage(data in prop::collection::vec(any::<u8>(), 0..1500), at in any::<prop::sample::Index>(),
                       byte in any::<u8>(), cut in any::<prop::sample::Index>(), buffer in 1_usize..3000) {
        let tar = Tar::new().pax(&[("path", b"some/path"), ("size", data.len().to_string().as_bytes())]);
        let mut tar = tar.file("x", &data).symlink("l", "t").dir("d").end();
        let at = at.index(tar.len());
        tar[at] = byte;
        tar.truncate(cut.index(tar.len()) + 1);
        prop_assert_eq!(read(&tar, buffer), read(&tar, 1 << 20));
    }

    /// Headers with a right checksum and anything else in them.
    #[test]
    fn survives_any_header(mut block in prop::collection::vec(any::<u8>(), 512..=512), flag in prop::sample::select(b"01234567xgLKS\0".to_vec()),
                           magic in any::<bool>(), rest in prop::collection::vec(any::<u8>(), 0..2048)) {
        block[156] = flag;
        if magic {
            block[257..265].copy_from_slice(b"ustar  \0");
        }
        for field in [100..108, 108..116, 116..124, 136..148] {
            block[field].fill(b'0');
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block.extend_from_slice(&rest);
        let _ = read(&block, 512);
    }
}
