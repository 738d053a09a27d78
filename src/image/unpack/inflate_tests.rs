use super::*;
use crate::image::test_layers::{gzip, zstd};

/// Inflates with buffers of the given sizes.
fn inflate(mut inflater: Inflater, input: &[u8], chunk: usize, buffer: usize) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::new();
    let mut target = vec![0; buffer];
    for piece in input.chunks(chunk).chain([&[][..]]) {
        let mut at = 0;
        loop {
            let step = inflater.step(&piece[at..], &mut target)?;
            at += step.read;
            out.extend_from_slice(&target[..step.written]);
            if step.read == 0 && step.written == 0 {
                assert_eq!(at, piece.len(), "no progress");
                break;
            }
        }
    }
    inflater.finish().map(|()| out)
}

fn text() -> Vec<u8> {
    (0..40_000_u32).flat_map(|number| (number / 3).to_le_bytes()).collect()
}

#[test]
fn tells_formats_by_their_first_bytes() {
    for (start, format) in [
        (&gzip(b"x")[..], Format::Gzip),
        (&zstd(b"x"), Format::Zstd),
        (b"\x50\x2a\x4d\x18\0\0", Format::Zstd),
        (b"", Format::Plain),
        (b"\x1f", Format::Plain),
        (b"etc/passwd", Format::Plain),
    ] {
        assert_eq!(Format::detect(start).unwrap(), format);
    }
}

#[test]
fn one_stream_in_any_pieces() {
    let text = text();
    for (chunk, buffer) in [(1, 100_000), (7, 13), (1000, 1), (1 << 20, 1 << 20)] {
        assert!(inflate(Inflater::gzip(), &gzip(&text), chunk, buffer).unwrap() == text);
        assert!(inflate(Inflater::zstd().unwrap(), &zstd(&text), chunk, buffer).unwrap() == text);
    }
}

/// Decoders that stop after the first member cut layers short (bootc#2408).
#[test]
fn several_members_and_frames() {
    let text = text();
    let (first, second) = text.split_at(1234);
    let twice = [gzip(first), gzip(b""), gzip(second)].concat();
    let frames = [zstd(first), b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), zstd(b""), zstd(second)].concat();
    for chunk in [1, 100, 1 << 20] {
        assert!(inflate(Inflater::gzip(), &twice, chunk, 4096).unwrap() == text);
        assert!(inflate(Inflater::zstd().unwrap(), &frames, chunk, 4096).unwrap() == text);
    }
}

#[test]
fn padding_is_not_garbage() {
    let padded = [gzip(b"text"), vec![0; 1000]].concat();
    assert_eq!(inflate(Inflater::gzip(), &padded, 64, 64).unwrap(), b"text");
    for garbage in [&b"garbage"[..], b"\0\0garbage", b"\x1f\x8b garbage"] {
        let stream = [&gzip(b"text")[..], garbage].concat();
        assert!(inflate(Inflater::gzip(), &stream, 64, 64).is_err());
    }
    let garbage = [&zstd(b"text")[..], b"garbage"].concat();
    assert!(inflate(Inflater::zstd().unwrap(), &garbage, 64, 64).is_err());
}

#[test]
fn cut_streams_are_errors() {
    for cut in [1, 4, 8, 100] {
        let (gz, zs) = (gzip(&text()), zstd(&text()));
        assert!(inflate(Inflater::gzip(), &gz[..gz.len() - cut], 512, 4096).is_err());
        assert!(inflate(Inflater::zstd().unwrap(), &zs[..zs.len() - cut], 512, 4096).is_err());
    }
}
