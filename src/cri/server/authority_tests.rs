use proptest::prelude::*;

use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let n = payload.len();
    let mut frame = vec![(n >> 16) as u8, (n >> 8) as u8, n as u8, kind, flags, 0, 0, 0, 1];
    frame.extend_from_slice(payload);
    frame
}

fn literal(first: u8, value: &[u8], huffman: bool) -> Vec<u8> {
    let mut out = vec![first];
    let bit = if huffman { 0x80 } else { 0 };
    if value.len() < 127 {
        out.push(bit | value.len() as u8);
    } else {
        let rest = value.len() - 127;
        assert!(rest < 1 << 14);
        out.extend([bit | 127, (rest & 0x7f) as u8 | 0x80, (rest >> 7) as u8]);
    }
    out.extend_from_slice(value);
    out
}

/// A request's block: `:method: POST`, then `:authority` in one of the literal forms, then `te` spelled out.
fn block(first: u8, value: &[u8], huffman: bool) -> Vec<u8> {
    let mut block = vec![0x83];
    block.extend(literal(first, value, huffman));
    block.extend(b"\x40\x02te\x08trailers");
    block
}

fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frames.concat());
    bytes
}

/// Passes `bytes` in pieces of `size`.
fn passed(mut bytes: Vec<u8>, size: usize) -> Vec<u8> {
    let mut frames = Frames::default();
    bytes.chunks_mut(size).for_each(|piece| frames.pass(piece));
    bytes
}

fn check(before: &[Vec<u8>], after: &[Vec<u8>]) {
    let (before, after) = (connection(before), connection(after));
    for size in [1, 2, 3, 7, 64, 100_000] {
        assert_eq!(passed(before.clone(), size), after, "in pieces of {size}");
    }
}

#[test]
fn the_value_is_overwritten_in_every_literal_form() {
    let settings = frame(4, 0, &[0, 4, 0, 1, 0, 0]);
    let data = frame(0, 1, b"\x41\x0b/run/x.sock is data here");
    for first in [0x41, 0x01, 0x11] {
        for huffman in [false, true] {
            for value in [&b"/run/x.sock"[..], &[0xa5; 300], b"l"] {
                let filler = vec![b'x'; value.len()];
                let request = |value: &[u8], h| frame(1, END_HEADERS, &block(first, value, h));
                check(
                    &[settings.clone(), request(value, huffman), data.clone(), request(value, huffman)],
                    &[settings.clone(), request(&filler, false), data.clone(), request(&filler, false)],
                );
            }
        }
    }
}

#[test]
fn padding_priority_and_continuation_are_understood() {
    let (raw, clean) = (block(0x41, b"/run/x.sock", true), block(0x41, b"xxxxxxxxxxx", false));
    let dressed = |block: &[u8]| {
        // Padding that looks like a field, and a priority that does too.
        let mut payload = vec![4];
        payload.extend(b"\x41\x03\x41\x03\x41");
        payload.extend(&block[..6]);
        payload.extend(b"\x41\x03abc"[..4].iter());
        [
            frame(HEADERS, PADDED | PRIORITY, &payload),
            frame(CONTINUATION, 0, &block[6..9]),
            frame(CONTINUATION, 0, &[]),
            frame(CONTINUATION, END_HEADERS, &block[9..]),
            frame(HEADERS, END_HEADERS, block),
        ]
    };
    check(&dressed(&raw), &dressed(&clean));
}

#[test]
fn all_else_stays_as_it_is() {
    let plain = [
        // Indexed fields, a table's size, other literals, a name that is spelled out and one with a long index.
        frame(
            HEADERS,
            END_HEADERS,
            b"\x83\xff\x05\x3f\xe1\x1f\x44\x84abcd\x00\x03foo\x03bar\x7f\x01\x02hi\x0f\x30\x01z",
        ),
        frame(6, 0, b"\x41\x04ping"),
        frame(3, 0, b"\x41\x02ab"),
        frame(HEADERS, END_HEADERS, &[]),
        frame(HEADERS, PADDED | END_HEADERS, &[]),
        frame(0, 0, &[0x41; 20_000]),
    ];
    check(&plain, &plain);
}

proptest! {
    /// Whatever comes, the length stays, the pieces do not matter, and nothing panics.
    #[test]
    fn any_bytes_pass(bytes in proptest::collection::vec(any::<u8>(), 0..600), size in 1usize..64) {
        let whole = passed(bytes.clone(), bytes.len().max(1));
        prop_assert_eq!(whole.len(), bytes.len());
        prop_assert_eq!(passed(bytes, size), whole);
    }

    /// The same for streams of frames with header blocks full of anything.
    #[test]
    fn any_blocks_pass(blocks in proptest::collection::vec((0u8..10, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..80)), 1..8), size in 1usize..64) {
        let bytes = connection(&blocks.iter().map(|(kind, flags, payload)| frame(*kind, *flags, payload)).collect::<Vec<_>>());
        let whole = passed(bytes.clone(), bytes.len());
        prop_assert_eq!(passed(bytes, size), whole);
    }
}
